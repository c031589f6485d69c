from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from extract.decoding.frame_index import (
    MISSING,
    PacketTable,
    index_from_frames,
    index_from_packets,
    sample_frame_indices,
)

ascending_times = st.lists(st.integers(1, 40), min_size=0, max_size=30).map(
    lambda steps: np.concatenate([[0], np.cumsum(steps)]) / 100
)


def packets(pts: list[int], *, durations: list[int] | None = None, **facts: object) -> PacketTable:
    return PacketTable(
        pts=np.array(pts, np.int64),
        durations=np.array(durations if durations is not None else [0] * len(pts), np.int64),
        keyframes=np.array([k == 0 for k in range(len(pts))], bool),
        time_base_s=0.01,
        **facts,  # type: ignore[arg-type]
    )


@given(ascending_times, st.lists(st.floats(-1, 20), max_size=20))
def test_the_frame_on_screen_is_the_last_that_is_not_later(times: np.ndarray, wanted: list[float]) -> None:
    found = sample_frame_indices(times, np.array(wanted))
    for time, index in zip(wanted, found, strict=True):
        slow = 0
        for k, frame_time in enumerate(times):
            if frame_time <= time + 1e-6:
                slow = k
        assert index == slow


def test_times_computed_another_way_find_their_own_frame() -> None:
    times = np.arange(300) / (30000 / 1001)
    assert sample_frame_indices(times, np.arange(300) * (1001 / 30000)).tolist() == list(range(300))


@given(st.permutations([3, 7, 1, 40, 12]), st.integers(-1000, 1000))
def test_packets_in_any_order_give_ascending_times_from_zero(order: list[int], offset: int) -> None:
    index = index_from_packets(packets([p + offset for p in order]), fps_hint=25)
    assert index.times_s.tolist() == [0, 0.02, 0.06, 0.11, 0.39]
    assert index.start_s == np.float64(1 + offset) * 0.01
    assert index.pts is not None
    assert index.pts.tolist() == [p + offset for p in (1, 3, 7, 12, 40)]


def test_duration_reaches_the_end_of_the_last_frame() -> None:
    assert index_from_packets(packets([0, 4, 8], durations=[4, 4, 6]), 25).duration_s == 0.14
    assert index_from_packets(packets([0, 4, 8]), 25).duration_s == 0.12  # unknown: as long as the others
    assert index_from_packets(packets([0]), 25).duration_s == 0.04  # alone: the header's rate
    assert index_from_packets(packets([0]), 0).duration_s == 0.04  # nothing says
    assert index_from_packets(packets([0, 4], durations=[4, 90_000]), 25).duration_s == 0.08  # nonsense


def test_an_index_without_frames_is_empty() -> None:
    index = index_from_packets(packets([]), 25)
    assert (index.num_frames, index.duration_s) == (0, 0.0)


def test_counted_frames_use_their_own_times_while_these_ascend() -> None:
    own, decoding = np.array([5, 6, 9], np.int64), np.array([0, 1, MISSING], np.int64)
    assert index_from_frames(own, decoding, packets([1, 2, 3]), 25, None).times_s.tolist() == [0, 0.01, 0.04]
    mixed = np.array([5, 9, 6], np.int64)  # AVI with B-frames: the decoder repeats what the packets said
    assert index_from_frames(mixed, decoding, packets([1, 2, 3]), 25, None).times_s.tolist() == [0, 0.01, 0.02]


def test_counted_frames_without_any_times_follow_the_header() -> None:
    nothing = np.full(3, MISSING, np.int64)
    index = index_from_frames(nothing, nothing, packets([MISSING] * 3), 50, "broken")
    assert index.times_s.tolist() == [0, 0.02, 0.04]
    assert (index.counted_by, index.error, index.pts) == ("decoding", "broken", None)


def test_packets_are_believed_only_when_nothing_is_odd() -> None:
    def why(table: PacketTable, formats: str = "mov,mp4", codec: str = "h264") -> str | None:
        return table.why_count_by_decoding(formats, codec)

    sound = packets([0, 1, 2])
    assert why(sound) is None
    assert why(sound, formats="mpegts") is not None
    assert why(replace(sound, time_base_s=0.0)) == "no time base"
    assert why(packets([0, 1, 1])) == "missing or repeated timestamps"
    assert why(packets([0, 1], has_missing=True)) is not None
    assert why(packets([0, 1], num_tiny=1), codec="mpeg4") == "packed frames"
    assert why(packets([0, 1], num_tiny=1), codec="av1") is None
    assert why(packets([0, 1], num_header_frames=3)) is not None
    assert why(packets([0, 1], num_header_frames=3, num_discarded=1)) is None
    assert why(packets([0, 1], is_corrupt=True)) == "broken packets"
