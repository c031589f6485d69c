"""What the NAL units of H.264 and HEVC packets tell: where decoding may start, and whether a packet is torn."""

from __future__ import annotations

from typing import Any

_IDR_SLICE, _OTHER_SLICES = 5, frozenset({1, 2})
_ZEROS_ARE_PIXELS = frozenset({"rawvideo", "v210", "r210", "bitpacked", "qtrle", "rpza", "msrle", "pgm", "ppm"})
"""Codecs whose packets may begin with zeros."""
_FORBIDDEN_BIT = 0x80
_VP9_MARKER = 0b10


def length_field_bytes(codec: str, extradata: bytes | None) -> int:
    """Return how many bytes tell a NAL unit's length; 0 for start codes (Annex B) and for other codecs."""
    place, smallest = {"h264": (4, 7), "hevc": (21, 23)}.get(codec, (0, 0))
    if not place or extradata is None or len(extradata) < smallest or extradata[0] != 1:
        return 0
    return (extradata[place] & 3) + 1


def is_torn(packet: Any, codec: str, nal_length_bytes: int) -> bool:
    """Whether a packet cannot be what an encoder wrote: a hole of zeros, or NAL units that do not fill it.

    Files whose download broke off have such packets in their middle; only
    decoding tells how many frames are there.

    Parameters
    ----------
    packet : av.Packet or bytes
        Not empty.
    codec : str
    nal_length_bytes : int
        See :func:`length_field_bytes`.
    """
    data = memoryview(packet)
    if not any(data[:8]):
        return codec not in _ZEROS_ARE_PIXELS
    if codec == "vp9":
        return data[0] >> 6 != _VP9_MARKER
    at, end = 0, len(data)
    while nal_length_bytes and at < end:
        length = int.from_bytes(data[at : at + nal_length_bytes], "big")
        at += nal_length_bytes
        if length == 0 or at + length > end or data[at] & _FORBIDDEN_BIT:
            return True
        at += length
    return False


def starts_cleanly(packet: Any, nal_length_bytes: int) -> bool:
    """Whether the first picture of an H.264 packet is an IDR picture, after which nothing before is needed.

    Recovery points (gradual intra refresh, open groups of pictures) are flagged
    as keyframes too, but frames decoded from there differ from those decoded
    from the beginning.

    Parameters
    ----------
    packet : av.Packet or bytes
        One access unit.
    nal_length_bytes : int
        See :func:`length_field_bytes`; with start codes the answer is False.
    """
    data = memoryview(packet)
    at = 0
    while nal_length_bytes and at + nal_length_bytes < len(data):
        length = int.from_bytes(data[at : at + nal_length_bytes], "big")
        at += nal_length_bytes
        kind = data[at] & 0x1F
        if kind == _IDR_SLICE:
            return True
        if kind in _OTHER_SLICES or length <= 0:
            return False
        at += length
    return False
