from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from extract.catalog.find_videos import list_videos, resolve_video
from extract.decoding.inspect import inspect_video
from pipeline.errors import InvalidInputError, ManifestError, NoDataError, NotFoundError
from pipeline.recipe.dataset import DatasetSpec
from pipeline.settings import Settings
from tests.support.videos import numbered_frames, write_image_folder


def find(root: Path, videos: str | list[str]) -> list[str]:
    dataset = DatasetSpec(name="d", videos=videos)
    return [video.video_id for video in list_videos(dataset, Settings(data=root))]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "a.mp4",
        "b.AVI",
        "run/c.mp4",
        "run/deep/d.mkv",
        "run/.hidden.mp4",
        ".git/e.mp4",
        "run/notes.txt",
        "-f-.mp4",
    ):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.mp4", ["-f-.mp4", "a.mp4"]),
        ("**/*.mp4", ["-f-.mp4", "a.mp4", "run/c.mp4"]),
        ("**/*.{mp4,mkv}", ["-f-.mp4", "a.mp4", "run/c.mp4", "run/deep/d.mkv"]),
        ("run/**", ["run/c.mp4", "run/deep/d.mkv", "run/notes.txt"]),
        ("run/*/d.mkv", ["run/deep/d.mkv"]),
        ("*.[aA][vV][iI]", ["b.AVI"]),
        ("a.mp4", ["a.mp4"]),
        (["a.mp4", "*.mp4", "b.AVI"], ["-f-.mp4", "a.mp4", "b.AVI"]),
        ("./run/c.mp4", ["run/c.mp4"]),
    ],
)
def test_globs(tree: Path, pattern: str | list[str], expected: list[str]) -> None:
    assert find(tree, pattern) == expected


def test_an_absolute_pattern_gives_ids_relative_to_the_data_folder(tree: Path) -> None:
    assert find(tree, f"{tree}/run/*.mp4") == ["run/c.mp4"]


def test_links_are_followed_and_loops_end(tree: Path) -> None:
    (tree / "linked").symlink_to(tree / "run")
    (tree / "run" / "back").symlink_to(tree)
    (tree / "gone.mp4").symlink_to(tree / "nowhere.mp4")
    found = find(tree, "**/*.mp4")
    assert "linked/c.mp4" in found
    assert "gone.mp4" in found  # a row that says `missing`
    assert len(found) < 30


def test_folders_of_images_are_videos_and_their_images_are_not(tree: Path) -> None:
    write_image_folder(tree / "clip", numbered_frames(3))
    (tree / "odd.mp4").mkdir()
    assert "clip" in find(tree, "*")
    assert not [found for found in find(tree, "**/*") if found.startswith("clip/")]
    assert find(tree, "clip") == ["clip"]
    assert "odd.mp4" in find(tree, "*.mp4")  # a row that says it is a folder
    assert "run" not in find(tree, "*")


def test_nothing_found_says_what_there_is_instead(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(NoDataError, match=r"match \*\*/\*.webm below .*it holds 3 x .mp4"):
        find(tree, "**/*.webm")
    with pytest.raises(NoDataError, match="no such folder"):
        find(tmp_path / "none", "*")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoDataError, match="the folder holds no files"):
        find(tmp_path / "empty", "**/*.mp4")


def test_an_id_and_an_address_for_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/na\xd3me+&=?.mp4"))
    path.write_bytes(b"x")
    (video,) = list_videos(DatasetSpec(name="d", videos="*.mp4"), Settings(data=tmp_path))
    assert video.video_id == "na\\xd3me+&=?.mp4"
    video.uri.encode("ascii")
    assert resolve_video(video.video_id, video.uri, Settings(data=tmp_path)) == path
    assert resolve_video(video.video_id, video.uri, Settings()) == path


def test_a_moved_data_folder_is_found_by_id(tree: Path, tmp_path: Path) -> None:
    (video,) = list_videos(DatasetSpec(name="d", videos="a.mp4"), Settings(data=tree))
    tree.rename(tmp_path / "moved")
    assert resolve_video(video.video_id, video.uri, Settings(data=tmp_path / "moved")) == tmp_path / "moved" / "a.mp4"
    assert resolve_video("gone.mp4", None, Settings(data=tmp_path)) == tmp_path / "gone.mp4"


def test_manifests_of_both_kinds(tree: Path) -> None:
    (tree / "list.csv").write_text("\ufeffpath,label\nrun/c.mp4,01\n./a.mp4,\nmissing.mp4,x\n", encoding="utf-8")
    videos = list_videos(DatasetSpec(name="d", videos="list.csv"), Settings(data=tree))
    assert [(v.video_id, v.columns["label"]) for v in videos] == [
        ("a.mp4", None),
        ("missing.mp4", "x"),
        ("run/c.mp4", "01"),
    ]
    assert videos[0].path == tree / "./a.mp4"
    pq.write_table(pa.table({"path": ["a.mp4", "run/c.mp4"], "label": [["x", "y"], None]}), tree / "list.parquet")
    videos = list_videos(DatasetSpec(name="d", videos="list.parquet"), Settings(data=tree))
    assert [v.columns["label"] for v in videos] == [["x", "y"], None]


def test_ways_round_lead_to_the_same_video(tree: Path) -> None:
    (tree / "list.csv").write_text("path,label\nrun/c.mp4,x\nrun/../run/c.mp4,x\n./run//c.mp4,x\n", encoding="utf-8")
    videos = list_videos(DatasetSpec(name="d", videos="list.csv"), Settings(data=tree))
    assert [v.video_id for v in videos] == ["run/c.mp4"]
    assert find(tree, "run/../run/c.mp4") == ["run/c.mp4"]
    (tree / "list.csv").write_text("path,label\nrun/c.mp4,x\nrun/../run/c.mp4,y\n", encoding="utf-8")
    with pytest.raises(ManifestError, match="each path once"):
        list_videos(DatasetSpec(name="d", videos="list.csv"), Settings(data=tree))


def test_a_confined_worker_reads_no_video_elsewhere(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"x")
    confined = Settings(data=tree, roots=str(tree))
    assert list_videos(DatasetSpec(name="d", videos="*.mp4"), confined)
    (tree / "list.csv").write_text(f"path\n{tmp_path / 'secret.mp4'}\n")
    for videos in ("list.csv", str(tmp_path / "*.mp4"), "../*.mp4"):
        with pytest.raises(InvalidInputError, match=r"expected the video .*secret\.mp4 in one of the places"):
            list_videos(DatasetSpec(name="d", videos=videos), confined)
    with pytest.raises(InvalidInputError, match="SCALE_ROOTS"):
        resolve_video("gone.mp4", (tmp_path / "secret.mp4").as_uri(), confined)


def test_a_path_longer_than_the_system_allows_is_one_video_that_is_not_there(tree: Path) -> None:
    long = "x" * 5000 + ".mp4"
    (tree / "list.csv").write_text(f"path\na.mp4\n{long}\n{'y/' * 3000}z.mp4\n", encoding="utf-8")
    videos = list_videos(DatasetSpec(name="d", videos="list.csv"), Settings(data=tree))
    assert {v.video_id for v in videos} >= {"a.mp4", long}
    assert [info.error is None for info in map(inspect_video, [v.path for v in videos if v.video_id == long])] == [
        False
    ]


def test_a_manifest_beside_its_videos_needs_no_data_folder(tree: Path) -> None:
    (tree / "list.tsv").write_text("path\tlabel\nrun/c.mp4\tx\n")
    (video,) = list_videos(DatasetSpec(name="d", videos=str(tree / "list.tsv")), Settings())
    assert (video.video_id, video.path) == ("run/c.mp4", tree / "run/c.mp4")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"file,label\na.mp4,x\n", "column `path`, found file, label"),
        (b"path,path\na.mp4,x\n", "distinct column names"),
        (b"", "header line"),
        (b"path,label\na.mp4,x,y\n", "expected 2 fields in line 2, found 3"),
        (b"path,label\n,x\n", "expected a path in line 2"),
        (b"path,label\na.mp4,x\na.mp4,y\n", "each path once, found 'a.mp4' again in line 3"),
        (b"path,label\na.mp4,\xd3\n", "not UTF-8"),
        (b'path,label\n"a.mp4,x\n', "found:"),
    ],
)
def test_manifests_that_cannot_be_used(tree: Path, content: bytes, reason: str) -> None:
    (tree / "list.csv").write_bytes(content)
    with pytest.raises(ManifestError, match=reason.replace("`", "`")) as caught:
        find(tree, "list.csv")
    assert "list.csv" in str(caught.value)


def test_manifests_that_are_not_there_or_not_tables(tree: Path) -> None:
    with pytest.raises(NotFoundError, match="manifest of videos"):
        find(tree, "none.csv")
    (tree / "broken.parquet").write_text("not parquet")
    with pytest.raises(ManifestError, match="parquet"):
        find(tree, "broken.parquet")
    (tree / "headed.csv").write_text("path,label\n")
    with pytest.raises(NoDataError, match="one video a row"):
        find(tree, "headed.csv")


TOKENS = st.sampled_from(
    [b"path", b"label", b",", b"\n", b'"', b"a.mp4", b"../x", b"/etc/passwd", b"\0", b"\xff", b"\xef\xbb\xbf",
     b"start_s", b"end_s", b"1e999", b"-1", b"nan", b"x" * 5000, b"y/" * 3000, b"\t", b"\r"]
)  # fmt: skip


@hypothesis.settings(max_examples=60, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(tokens=st.lists(TOKENS, max_size=12), headed=st.booleans())
def test_any_manifest_is_listed_or_refused(tree: Path, tokens: list[bytes], headed: bool) -> None:
    (tree / "fuzz.csv").write_bytes((b"path,label\n" if headed else b"") + b"".join(tokens))
    try:
        found: object = list_videos(DatasetSpec(name="d", videos="fuzz.csv"), Settings(data=tree))
    except (ManifestError, NoDataError) as error:
        found = str(error)
    assert found
