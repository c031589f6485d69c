"""Videos at web addresses, in buckets and in shards as rows: catalogued, extracted, audited and shown like files."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract import plan_catalog, run_catalog
from extract.auditing import audit
from extract.catalog.find_videos import list_videos
from extract.pixels.thumbnails import catalogue_thumbnails
from pipeline import FeatureStore
from pipeline.errors import InvalidInputError, NoDataError
from pipeline.recipe.dataset import DatasetSpec
from pipeline.reports import StageReport
from pipeline.settings import Settings
from pipeline.storage.backend_object import ObjectBackend
from tests.support.extraction import DEFAULT_CROPS, extract_all, make_videos, tiny_recipe
from tests.support.s3 import BUCKET, S3Server
from tests.support.web import WebServer, web_server

GRID = {"grid": DEFAULT_CROPS["grid"]}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = make_videos(tmp_path_factory.mktemp("clips"), [20, 26])
    return {path.stem: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    data = tmp_path / "data"
    data.mkdir()
    return Settings(data=data, cache=tmp_path / "cache", hosts=f"127.0.0.1,s3://{BUCKET}", device="cpu", workers=1)


def shard(clips: dict[str, bytes]) -> bytes:
    """Return a webdataset shard: each clip with its class, its caption and a JSON."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for k, (key, video) in enumerate(clips.items()):
            fields = {"split": ["train", "test"][k], "tags": ["x", "y"], "nested": {"a": 1}, "path": "no"}
            for suffix, data in (("mp4", video), ("cls", b"%d\n" % k), ("json", json.dumps(fields).encode())):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def put(key: str, data: bytes) -> None:
    ObjectBackend(f"s3://{BUCKET}").put(key, data)


def catalogue(recipe: Any, store: FeatureStore, settings: Settings) -> StageReport:
    return run_catalog(plan_catalog(recipe, store, settings), store, settings)


@pytest.mark.service
def test_every_place_gives_the_features_of_the_file(
    clips: dict[str, bytes], web: WebServer, s3: S3Server, settings: Settings, program: tuple[Path, str], tmp_path: Path
) -> None:
    assert settings.data is not None
    (name, video), *_ = clips.items()
    web.files |= {f"/{name}.mp4": video, "/shards/w.tar": shard(clips)}
    put("clips/a b.mp4", video)
    (settings.data / "here.mp4").write_bytes(video)
    (settings.data / "l.tar").write_bytes(shard(clips))
    with zipfile.ZipFile(settings.data / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/v.mp4", video)
    places = ["here.mp4", f"{web.address}/{name}.mp4", f"{web.address}/shards/w.tar/{name}.mp4",
              f"s3://{BUCKET}/clips/a%20b.mp4", f"l.tar/{name}.mp4", "z.zip/in/v.mp4"]  # fmt: skip
    lines = [f"{place},{'ab'[k % 2]},train" for k, place in enumerate(places)]
    (settings.data / "list.csv").write_text("\n".join(["path,label,split", *lines, f"{web.address}/gone.mp4,a,test"]))
    columns = {"labels": {"from": "column", "column": "label"}, "splits": {"from": "columns"}}
    recipe = tiny_recipe(program, crops=GRID, dataset={"videos": "list.csv", **columns})
    store, _ = extract_all(recipe, tmp_path / "store", settings)
    ds = store.dataset("set")
    assert set(ds.videos["video_id"].to_pylist()) == {*places, f"{web.address}/gone.mp4"}
    status = dict(zip(*(ds.status("grid", "tiny")[c].to_pylist() for c in ("video_id", "status")), strict=True))
    assert status.pop(f"{web.address}/gone.mp4") == "missing"
    assert set(status.values()) == {"ok"}, status
    values = np.asarray(ds.select(video_ids=places).features("grid", "tiny").values)
    assert all(np.array_equal(values[0], other) for other in values[1:])
    assert audit(store, "set", "grid", "tiny", settings, num_crops=12).is_ok
    pictures = catalogue_thumbnails(ds.videos, settings, 1)
    assert len({pictures(row)[0] for row in range(len(places) + 1) if pictures(row)}) == 1
    num_asked = len(web.asked)
    assert catalogue(recipe, store, settings).did["videos_known"] == len(places) + 1
    assert {path for path, _ in web.asked[num_asked:]} == {"/gone.mp4"}, "what is known is not asked for again"
    web.files["/gone.mp4"] = video
    assert catalogue(recipe, store, settings).did["videos_late"] == 1


def test_shards_give_their_texts_as_columns(clips: dict[str, bytes], web: WebServer, settings: Settings) -> None:
    assert settings.data is not None
    (settings.data / "train-000.tar").write_bytes(shard(clips))
    web.files["/train-001.tar"] = shard(clips)
    columns = {"labels": {"from": "column", "column": "cls"}, "splits": {"from": "columns"}}
    for videos in ("train-{000..000}.tar", "*.{tar,zip}", [f"{web.address}/train-{{001..001}}.tar"]):
        listed = list_videos(DatasetSpec.model_validate({"name": "d", "videos": videos, **columns}), settings)
        assert [video.video_id.rpartition("/")[2] for video in listed] == [f"{key}.mp4" for key in clips]
        assert [video.columns["cls"] for video in listed] == ["0", "1"]
        assert listed[1].columns["split"] == "test"
        assert listed[0].columns["tags"] == ["x", "y"]
        assert listed[0].columns["path"] == listed[0].video_id


def test_a_shard_that_cannot_be_read_yet_is_no_row(
    clips: dict[str, bytes], settings: Settings, program: tuple[Path, str], tmp_path: Path
) -> None:
    assert settings.data is not None
    (settings.data / "a.tar").write_bytes(shard(clips))
    (settings.data / "b.tar").write_bytes(shard(clips)[:2500])
    with zipfile.ZipFile(settings.data / "pictures.zip", "w") as archive:
        archive.writestr("x.png", b"")
    notes: list[str] = []
    listed = list_videos(DatasetSpec(name="d", videos=["*.tar", "*.zip"]), settings, notes)
    assert {video.video_id.partition("/")[0] for video in listed} == {"a.tar"}
    assert any("cannot be read now" in note and "b.tar" in note for note in notes)
    assert any("without videos: it holds .png" in note for note in notes)
    (settings.data / "a.tar").unlink()
    with pytest.raises(NoDataError, match=r"cannot be read now.*'b\.tar'"):
        list_videos(DatasetSpec(name="d", videos="*.tar"), settings)


@pytest.mark.service
def test_a_prefix_of_a_bucket_is_listed(clips: dict[str, bytes], s3: S3Server, settings: Settings) -> None:
    for key in ("p/a/x.mp4", "p/a/.hidden.mp4", "p/b/y z.mp4", "p/b/y.mp4.part", "p/list.txt", "q/x.mp4"):
        put(key, b"x")

    def ids(videos: str) -> list[str]:
        listed = list_videos(DatasetSpec(name="d", videos=videos), settings)
        assert all(video.path.num_bytes == 1 for video in listed)  # type: ignore[union-attr]
        return [video.video_id.removeprefix(f"s3://{BUCKET}/") for video in listed]

    assert ids(f"s3://{BUCKET}/p/") == ["p/a/x.mp4", "p/b/y z.mp4"]
    assert ids(f"s3://{BUCKET}/p/*/*.mp4") == ["p/a/x.mp4", "p/b/y z.mp4"]
    assert ids(f"s3://{BUCKET}/**/x.*") == ["p/a/x.mp4", "q/x.mp4"]
    with pytest.raises(NoDataError, match="expected videos at"):
        ids(f"s3://{BUCKET}/nothing/*.mp4")
    with pytest.raises(InvalidInputError, match="SCALE_HOSTS"):
        ids("s3://elsewhere/p/")


def test_a_server_that_is_down_keeps_nothing_out_and_is_asked_again(
    clips: dict[str, bytes], web: WebServer, settings: Settings, program: tuple[Path, str], tmp_path: Path
) -> None:
    assert settings.data is not None
    name, video = next(iter(clips.items()))
    web.files[f"/{name}.mp4"] = video
    web.failures[f"/{name}.mp4"] = [403]
    (settings.data / "here.mp4").write_bytes(video)
    (settings.data / "list.csv").write_text(f"path\n{web.address}/{name}.mp4\nhere.mp4\n")
    recipe, store = tiny_recipe(program, dataset={"videos": "list.csv"}), FeatureStore.create(str(tmp_path / "store"))
    assert catalogue(recipe, store, settings).did["videos_interrupted"] == 1
    assert store.dataset("set").videos["video_id"].to_pylist() == ["here.mp4"]
    assert catalogue(recipe, store, settings).did["videos_new"] == 1


def test_what_may_not_be_fetched_is_refused_before_anything_is_asked(web: WebServer, settings: Settings) -> None:
    assert settings.data is not None
    shut = settings.model_copy(update={"hosts": "media.example.org"})
    (settings.data / "list.csv").write_text(f"path\n{web.address}/a.mp4\n")
    for videos in ("list.csv", f"{web.address}/a.mp4", f"{web.address}/a.tar"):
        with pytest.raises(InvalidInputError, match=r"SCALE_HOSTS: media\.example\.org"):
            list_videos(DatasetSpec(name="d", videos=videos), shut)
    assert not web.asked
    with pytest.raises(InvalidInputError, match="web servers cannot"):
        list_videos(DatasetSpec(name="d", videos=f"{web.address}/*.mp4"), settings)
    with pytest.raises(InvalidInputError, match="SCALE_ROOTS"):
        list_videos(
            DatasetSpec(name="d", videos=f"{web.address}/a.mp4"),
            settings.model_copy(update={"roots": "/data,s3://bucket"}),
        )
    with pytest.raises(ValueError, match="expected a folder"):
        Settings(data="s3://bucket/clips")
