from __future__ import annotations

import pytest

from extract.decoding.random_access import is_torn, length_field_bytes, starts_cleanly


def nal(kind: int, num_bytes: int = 6, length_bytes: int = 4) -> bytes:
    return num_bytes.to_bytes(length_bytes, "big") + bytes([0x60 | kind]) + bytes(num_bytes - 1)


SEI, SPS, PPS, SLICE, IDR = 6, 7, 8, 1, 5


@pytest.mark.parametrize("length_bytes", [1, 2, 4])
@pytest.mark.parametrize(
    ("kinds", "expected"),
    [([IDR], True), ([SPS, PPS, SEI, IDR, IDR], True), ([SEI, SLICE], False), ([SEI], False), ([], False)],
)
def test_only_idr_pictures_are_clean_starts(kinds: list[int], expected: bool, length_bytes: int) -> None:
    packet = b"".join(nal(kind, length_bytes=length_bytes) for kind in kinds)
    assert starts_cleanly(packet, length_bytes) is expected


def test_broken_and_unlabelled_packets_are_none() -> None:
    assert not starts_cleanly(bytes(20), 4)
    assert not starts_cleanly(nal(SEI, 100)[:10], 4)
    assert not starts_cleanly(b"\0\0\0\1\x65" + bytes(9), 0)
    assert not starts_cleanly(b"", 4)


def test_the_length_field_comes_from_the_header() -> None:
    assert length_field_bytes("h264", bytes([1, 100, 0, 31, 0xFF, 0xE1, 0])) == 4
    assert length_field_bytes("h264", bytes([1, 100, 0, 31, 0xFD, 0xE1, 0])) == 2
    assert length_field_bytes("h264", bytes([0, 0, 0, 1, 0x67, 0, 0])) == 0
    assert length_field_bytes("h264", None) == 0
    assert length_field_bytes("h264", b"\1") == 0
    assert length_field_bytes("hevc", bytes([1, *range(20), 0xFB, 0])) == 4
    assert length_field_bytes("vp9", bytes([1, 100, 0, 31, 0xFF, 0xE1, 0])) == 0


def test_torn_packets_are_told_from_sound_ones() -> None:
    sound = nal(SEI) + nal(SLICE, 300)
    assert not is_torn(sound, "h264", 4)
    assert not is_torn(b"\0\0\0\1\x65" + bytes(9), "h264", 0)
    assert is_torn(sound[:-1], "h264", 4)
    assert is_torn(sound + b"\0\0", "h264", 4)
    assert is_torn(sound[:10] + bytes(300), "h264", 4)
    assert is_torn(nal(0x80 | SLICE), "h264", 4)
    assert is_torn(bytes(500), "vp8", 0)
    assert not is_torn(bytes(500), "rawvideo", 0)
    assert not is_torn(b"\x82" + bytes(20), "vp9", 0)
    assert is_torn(b"\x42" + bytes(20), "vp9", 0)
