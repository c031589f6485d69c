"""Pictures for pages: the right frames, small, and nothing where a video is gone."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from extract.pixels.thumbnails import catalogue_thumbnails, video_thumbnails
from pipeline.errors import VideoError
from pipeline.settings import Settings
from tests.support.videos import frame_number, numbered_frames, write_video


def pixels(picture: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(picture)) as image:
        assert image.format == "JPEG"
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    write_video(tmp_path / "a.mp4", numbered_frames(30, height=192, width=320))
    return tmp_path / "a.mp4"


def test_frames_from_the_middle_of_each_third(video: Path) -> None:
    pictures = video_thumbnails(video, 3, width_px=160)
    assert [frame_number(pixels(p)) for p in pictures] == [5, 15, 25]
    assert {pixels(p).shape for p in pictures} == {(96, 160, 3)}


def test_never_enlarged_and_no_frame_twice(tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", numbered_frames(2, height=48, width=80))
    pictures = video_thumbnails(tmp_path / "short.mp4", 5, width_px=640)
    assert len(pictures) == 2
    assert pixels(pictures[0]).shape == (48, 80, 3)


def test_a_file_that_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(VideoError):
        video_thumbnails(tmp_path / "text.mp4")


def test_rows_of_a_catalogue(video: Path) -> None:
    table = pa.table(
        {
            "row": [0, 1],
            "video_id": ["a.mp4", "gone.mp4"],
            "uri": ["file:///elsewhere/a.mp4", "file:///elsewhere/gone.mp4"],
        }
    )
    frames = catalogue_thumbnails(table, Settings(data=video.parent), 2)
    assert len(frames(0)) == 2
    assert frames(1) == []
