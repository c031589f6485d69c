"""Where decoding of H.264 may start: a container's "keyframe" may be the middle of a gradual refresh."""

from __future__ import annotations

from typing import Any

_IDR_SLICE, _OTHER_SLICES = 5, frozenset({1, 2})


def length_field_bytes(extradata: bytes | None) -> int:
    """Return how many bytes tell a NAL unit's length; 0 for start codes (H.264 Annex B)."""
    if extradata is None or len(extradata) < 7 or extradata[0] != 1:
        return 0
    return (extradata[4] & 3) + 1


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
