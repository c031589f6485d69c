"""From geometry to frames, and how a video's frames are read in groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from extract.crops.draw import draw_crops
from extract.crops.policies.base import VideoFacts
from extract.decoding.frame_picking import RowPart, pick_frames, predecessors
from extract.decoding.opening import open_reader
from extract.run.video_job import CropRequest, VideoJob, read_video
from pipeline.recipe import CropPolicy
from tests.support.videos import frame_number, numbered_frames, write_video

PARSE = TypeAdapter(CropPolicy).validate_python


def row(start_s: float = 0.0, stride: float = 1, start_frame: int = 0) -> np.ndarray:
    return np.array([[start_s, 0, 0, 0, 0, 0, 0, stride, start_frame]], np.float32)


def picked(geometry, num_frames=4, available=100, fps=30.0, times=None, **policy):
    times = np.arange(available) / fps if times is None else times
    full = PARSE({"policy": "random", "num_frames": num_frames, **policy})
    return pick_frames(geometry, full, times)[0].tolist()


def test_frames_are_those_on_screen():
    assert picked(row(1.0, 4)) == [30, 34, 38, 42]
    assert picked(row(1.0, 4), fps=60.0, available=200) == [60, 68, 76, 84]
    assert picked(row(1.0, 1), fps=15.0) == [15, 15, 16, 16]
    assert picked(row(0.0, 3), times=np.array([0.0, 0.034, 0.9, 1.0])) == [0, 1, 1, 1]
    assert picked(row(0.0, 2), times=np.round(np.arange(100) / 30, 3)) == [0, 2, 4, 6]


def test_native_frames_and_signed_strides():
    assert picked(row(0, 3, 5), target_fps=None) == [5, 8, 11, 14]
    assert picked(row(0, -3, 5), target_fps=None) == [14, 11, 8, 5]
    assert picked(row(1.0, -2)) == [36, 34, 32, 30]
    assert picked(row(1.0, 0)) == [30] * 4


@pytest.mark.parametrize("target_fps", [30.0, None])
def test_short_rules(target_fps):
    assert picked(row(0, 2), available=5, target_fps=target_fps, short="loop") == [0, 2, 4, 1]
    assert picked(row(0, 2), available=5, target_fps=target_fps, short="repeat_last") == [0, 2, 4, 4]
    assert picked(row(0, 2), available=1, target_fps=target_fps) == [0] * 4


def test_predecessors_stop_at_the_first_frame():
    assert predecessors(np.array([0, 1, 7])).tolist() == [0, 0, 6]


@settings(max_examples=40, deadline=None)
@given(st.integers(17, 400), st.sampled_from([24.0, 25.0, 29.97, 30.0, 60.0]), st.text(max_size=5))
def test_a_video_long_enough_is_never_looped(num_frames, fps, video_id):
    policy = PARSE({"policy": "random", "num_frames": 4, "stride": 4})
    facts = VideoFacts(num_frames / fps, num_frames, fps, 64, 48)
    crops = draw_crops(policy, video_id, facts)
    frames = pick_frames(crops.geometry, policy, np.arange(num_frames) / fps, facts.duration_s)
    assert ((frames >= 0) & (frames < num_frames)).all()
    if not crops.is_short:
        assert (np.diff(frames, axis=1) > 0).all()


@pytest.mark.parametrize("max_bytes", [1 << 30, 20 * 48 * 80 * 3, 1])
def test_groups_of_a_large_video_give_every_crop_its_frames(tmp_path, max_bytes):
    path = write_video(tmp_path / "v.mp4", numbered_frames(90))
    policy = PARSE({"policy": "random", "num_crops": 9, "num_frames": 4, "stride": 3})
    drawn = draw_crops(policy, "v.mp4", VideoFacts(3.0, 90, 30.0, 80, 48))
    request = CropRequest("c", policy, np.arange(9), drawn.geometry, (0, 1, 2, 3), with_previous=True)
    parts = []
    outcome = read_video(
        VideoJob(0, "v.mp4", str(path), RowPart(3.0), (request,)), open_reader, parts.append, max_bytes
    )
    assert (outcome.status, outcome.error) == ("ok", None)
    expected = pick_frames(drawn.geometry, policy, np.arange(90) / 30, 3.0)
    seen = {}
    for part in parts:
        assert max_bytes == 1 or part.frames.nbytes <= max_bytes
        (crops,) = part.crops
        for k, number in enumerate(crops.request.numbers.tolist()):
            seen[number] = [frame_number(part.frames[i]) for i in crops.current[k]]
            assert [frame_number(part.frames[i]) for i in crops.previous[k]] == predecessors(expected[number]).tolist()
    assert seen == {v: expected[v].tolist() for v in range(9)}
    assert len(parts) == {1 << 30: 1, 1: 9}.get(max_bytes, len(parts))


def test_a_bad_file_comes_back_with_a_status(tmp_path):
    job = VideoJob(0, "x", str(tmp_path / "x"), RowPart(1.0), ())
    assert read_video(job, open_reader, lambda part: None).status == "missing"
    (tmp_path / "x").write_text("nothing")
    found = read_video(job, open_reader, lambda part: None)
    assert found.status == "unreadable"
    assert found.error
