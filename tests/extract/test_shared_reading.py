"""Parts of one file are decoded together: once, and each as if it were alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from extract.decoding.decode import DecodedFrames, VideoReader
from extract.decoding.frame_picking import RowPart
from extract.decoding.opening import open_reader
from extract.run.shared_reading import read_parts, together
from extract.run.video_job import CropRequest, VideoFrames, VideoJob, read_video
from pipeline.errors import VideoError
from pipeline.recipe.crops import GridPolicy
from tests.support.videos import frame_number, numbered_frames, write_video

STARTS = (60, 0, 20, 30, 25)
"""First frames of parts of 30 frames: some overlap."""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("shared") / "v.mp4", numbered_frames(100))


def job_of(path: Path, start: int, row: int = 0) -> VideoJob:
    policy = GridPolicy.model_validate(
        {"policy": "grid", "temporal": 3, "spatial": 1, "num_frames": 4, "stride": 2, "target_fps": None}
    )
    geometry = np.zeros((3, 9), np.float32)
    geometry[:, 7], geometry[:, 8] = 2, start + np.array([0, 10, 22])
    geometry[:, 0] = start / 30
    request = CropRequest("g", policy, np.arange(3), geometry, (0, 1, 2, 3), with_previous=True)
    return VideoJob(row, f"v#{start}", str(path), RowPart(1.0, start / 30, start, 30), (request,))


def seen(part: VideoFrames) -> list[list[int]]:
    (crops,) = part.crops
    return [[frame_number(part.frames[i]) for i in (*row, *before)]
            for row, before in zip(crops.current, crops.previous, strict=True)]  # fmt: skip


class Counting:
    """Opens videos, and counts how often, and how many frames are read."""

    def __init__(self, fail_from: int | None = None) -> None:
        self.num_opened = self.num_read = 0
        self.fail_from = fail_from

    def __call__(self, path: object) -> VideoReader:
        self.num_opened += 1
        reader = open_reader(str(path))
        read, counting = reader.read, self

        def counted(indices: np.ndarray, out: np.ndarray | None = None) -> DecodedFrames:
            if counting.fail_from is not None and indices[-1] >= counting.fail_from:
                raise VideoError("the decoder died")
            counting.num_read += len(indices)
            return read(indices, out)

        reader.read = counted  # type: ignore[method-assign]
        return reader


@pytest.mark.parametrize("max_frames", [1000, 30])
def test_parts_are_read_in_one_pass_and_show_what_they_show_alone(video: Path, max_frames: int) -> None:
    jobs = [job_of(video, start) for start in STARTS]
    alone: list[VideoFrames] = []
    for job in jobs:
        assert read_video(job, open_reader, alone.append).status == "ok"
    parts: dict[int, VideoFrames] = {}
    source = Counting()
    outcomes = read_parts(jobs, source, parts.__setitem__, max_frames * 48 * 80 * 3)
    assert [outcome.status for outcome in outcomes] == ["ok"] * len(jobs)
    assert [outcome.versions for outcome in outcomes] == [{"decoder": f"pyav {open_reader(video).decoder_version}"}] * 5
    assert [seen(parts[k]) for k in range(len(jobs))] == [seen(one) for one in alone]
    assert source.num_opened == 1
    if max_frames == 1000:
        assert source.num_read == len({n for one in alone for row in seen(one) for n in row})


def test_a_part_too_large_to_share_is_read_alone(video: Path) -> None:
    jobs = [job_of(video, start) for start in STARTS]
    parts: list[int] = []
    outcomes = read_parts(jobs, Counting(), lambda k, part: parts.append(k), 10 * 48 * 80 * 3)
    assert [outcome.status for outcome in outcomes] == ["ok"] * len(jobs)
    assert set(parts) == set(range(len(jobs)))


def test_what_ends_a_decoder_costs_only_the_parts_that_need_it(video: Path) -> None:
    jobs = [job_of(video, start) for start in STARTS]
    outcomes = read_parts(jobs, Counting(fail_from=60), lambda k, part: None, 1 << 30)
    statuses = dict(zip(STARTS, (outcome.status for outcome in outcomes), strict=True))
    assert statuses == {0: "ok", 20: "ok", 30: "ok", 25: "ok", 60: "unreadable"}


def test_a_file_that_is_gone_or_another_one_is_said_of_each_part(video: Path, tmp_path: Path) -> None:
    gone = [job_of(tmp_path / "gone.mp4", start) for start in STARTS]
    assert {one.status for one in read_parts(gone, open_reader, lambda k, part: None)} == {"missing"}
    jobs = [job_of(video, 0), VideoJob(1, "v", str(video), RowPart(1.0, 1.0, 30, 30), (), num_bytes=7)]
    outcomes = read_parts(jobs, open_reader, lambda k, part: None)
    assert outcomes[0].status == "ok"
    assert "changed since it was catalogued" in str(outcomes[1].error)


def test_damage_is_said_of_the_parts_that_show_it(tmp_path: Path) -> None:
    path = write_video(tmp_path / "d.avi", numbered_frames(100), codec="mpeg4", b_frames=0)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(1)
    middle = range(len(content) * 45 // 100, len(content) * 50 // 100)
    for place in rng.choice(middle, 60):
        content[place] ^= 0x55
    path.write_bytes(bytes(content))
    jobs = [job_of(path, start) for start in STARTS]
    parts: dict[int, VideoFrames] = {}
    outcomes = read_parts(jobs, open_reader, parts.__setitem__)
    alone = [read_parts([job], open_reader, lambda k, part: None)[0] for job in jobs]
    assert [one.status for one in outcomes] == [one.status for one in alone]
    assert "damaged" in {one.status for one in outcomes}


def test_rows_of_a_file_stand_together_and_are_shared_out() -> None:
    class Work:
        def __init__(self, row: int, path: str, start: int | None) -> None:
            self.row, self.is_part, self.needs_frames = row, start is not None, True
            self.job = VideoJob(row, "", path, RowPart(1.0, 0.0, start or 0, None if start is None else 1), ())

    works = [Work(k, "long", 100 - k) for k in range(20)] + [Work(20, "whole", None), Work(21, "long", None)]
    found = [[work.row for work in group] for group in together(works, 2)]  # type: ignore[arg-type]
    assert found == [list(range(19, 9, -1)), list(range(9, -1, -1)), [20], [21]]
