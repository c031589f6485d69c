"""What a person's data folder holds besides videos: it is read as meant, or said to be passed over."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from extract.catalog.find_videos import list_videos
from extract.decoding.inspect import inspect_video
from pipeline import FeatureStore
from pipeline.recipe.dataset import DatasetSpec
from pipeline.settings import Settings
from tests.support.videos import numbered_frames, write_image_folder, write_video


def find(data: Path, videos: str) -> tuple[list[str], list[str]]:
    notes: list[str] = []
    listed = list_videos(DatasetSpec(name="d", videos=videos), Settings(data=data), notes)
    return [video.video_id for video in listed], notes


def test_archives_and_json_are_refused_by_name(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "images", numbered_frames(5), suffix=".jpg")
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(folder, "images")
    with tarfile.open(tmp_path / "images.mp4", "w:gz") as tar:
        tar.add(folder, "images")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.write(next(folder.iterdir()))
    (tmp_path / "labels.json").write_text(json.dumps([{"id": "1", "label": "löffel"}], ensure_ascii=False))
    found = {name: inspect_video(tmp_path / name) for name in ("images.tar", "images.mp4", "images.zip", "labels.json")}
    assert {info.status for info in found.values()} == {"unreadable"}
    kinds = {name: (info.error or "").split("found ")[1].split(";")[0] for name, info in found.items()}
    assert kinds == {
        "images.tar": "a tar archive",
        "images.mp4": "a gzip archive",
        "images.zip": "a zip archive",
        "labels.json": "a JSON text",
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("a.mp4", "B.MP4", "c.mp4.part", "[1] d.mp4", "[x]/e.mp4", " f .mp4", "sub/g.mp4"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    store = FeatureStore.create(str(tmp_path / "store"))
    store.create_dataset("d")
    (tmp_path / "store" / "thumb.mp4").write_bytes(b"x")
    return tmp_path


def test_a_store_and_unfinished_downloads_are_passed_over_and_named(data: Path) -> None:
    found, notes = find(data, "**/*")
    assert found == [" f .mp4", "B.MP4", "[1] d.mp4", "[x]/e.mp4", "a.mp4", "sub/g.mp4"]
    assert any("unfinished download" in note and "'c.mp4.part'" in note for note in notes)
    assert any("feature store" in note and "'store'" in note for note in notes)
    assert find(data, "*.part")[0] == ["c.mp4.part"]


def test_upper_and_lower_case_count_and_what_differs_is_named(data: Path) -> None:
    found, notes = find(data, "*.mp4")
    assert "a.mp4" in found
    assert "B.MP4" not in found
    (note,) = (note for note in notes if "upper and lower case" in note)
    assert "'B.MP4'" in note


@pytest.mark.parametrize("pattern", ["[1] d.mp4", "[x]/*.mp4", "[x]/e.mp4", " f .mp4"])
def test_brackets_and_spaces_in_names_are_found_as_they_are_written(data: Path, pattern: str) -> None:
    assert len(find(data, pattern)[0]) == 1


def test_a_table_means_files_whose_names_have_spaces_around_them(data: Path) -> None:
    (data / "list.csv").write_text('path\n"  h.mp4"\na.mp4\n')
    write_video(data / "sub" / "x.mp4", numbered_frames(3)).rename(data / "  h.mp4")
    listed = list_videos(DatasetSpec(name="d", videos="list.csv"), Settings(data=data))
    assert all(video.path.exists() for video in listed)


def test_what_begins_like_json_but_is_none_is_given_to_the_decoder(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"[" + bytes(io.BytesIO(bytes(range(1, 32)) * 30).read()))
    assert "JSON" not in (inspect_video(path).error or "")
