"""HDF5 out and in: the same features come back; a hostile file gets nowhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline import FeatureStore
from pipeline.errors import (
    CorruptDataError,
    FingerprintMismatchError,
    FormatError,
    InvalidInputError,
    NotFoundError,
    PipelineError,
    ShapeMismatchError,
)
from pipeline.recipe.crops import ImportedPolicy
from tests.support.toy_stores import (
    CROPS,
    DIM,
    FEATURES,
    NUM_CROPS,
    check_features,
    extract,
    make_store,
    policy,
    videos,
)

FOREIGN = {"dataset": "other", "crops": "whole", "feature_set": "clip"}


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    dataset = make_store(tmp_path / "store").dataset("toy")
    return dataset.select().to_hdf5(tmp_path / "toy.h5", CROPS, FEATURES)


def new_store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.open_or_create(tmp_path / "imported")


def test_what_goes_out_comes_back(tmp_path: Path, exported: Path) -> None:
    source = FeatureStore.open(tmp_path / "store").dataset("toy")
    store = new_store(tmp_path)
    report = store.import_hdf5(exported, shard_rows=3)
    assert (report.videos_new, report.rows_written, report.shards_written) == (10, 10, 4)
    target = store.dataset("toy")
    check_features(target)
    keep = [name for name in source.videos.column_names if name != "added_at"]
    assert target.videos.select(keep).equals(source.videos.select(keep))
    assert target.crop_policy(CROPS) == source.crop_policy(CROPS)
    ours, theirs = target.feature_info(CROPS, FEATURES), source.feature_info(CROPS, FEATURES)
    assert (ours.fingerprint_id, ours.dtype, ours.dim) == (theirs.fingerprint_id, theirs.dtype, theirs.dim)
    same = ["row", "video_id", "status", "error"]
    assert target.status(CROPS, FEATURES).select(same).equals(source.status(CROPS, FEATURES).select(same))


def test_importing_again_does_nothing(tmp_path: Path, exported: Path) -> None:
    store = new_store(tmp_path)
    store.import_hdf5(exported, shard_rows=4)
    before = store.dataset("toy").snapshot()
    report = store.import_hdf5(exported)
    assert (report.shards_written, report.shards_skipped, report.videos_known) == (0, 3, 10)
    assert store.dataset("toy").snapshot() == before


def test_a_selection_lands_on_the_rows_of_its_videos(tmp_path: Path) -> None:
    dataset = make_store(tmp_path / "store", num_videos=12).dataset("toy")
    path = dataset.select("row % 3 = 1").to_hdf5(tmp_path / "part.h5", CROPS, FEATURES)
    store = new_store(tmp_path)
    target = store.create_dataset("toy", shard_rows=5)
    target.append_videos(videos(0, 12).take(list(reversed(range(12)))))  # other row numbers than in the file
    store.import_hdf5(path)
    target = store.dataset("toy")
    status = dict(zip(target.status(CROPS, FEATURES)["video_id"].to_pylist(),
                      target.status(CROPS, FEATURES)["status"].to_pylist(), strict=True))  # fmt: skip
    wanted = {f"clips/{n:04d}.mp4" for n in range(1, 12, 3)}
    assert {video_id for video_id, s in status.items() if s != "pending"} == wanted
    for n in range(1, 12, 3):
        name = f"clips/{n:04d}.mp4"
        got = target.select(video_ids=[name]).features(CROPS, FEATURES)
        expected = dataset.select(video_ids=[name]).features(CROPS, FEATURES)
        np.testing.assert_array_equal(got.values, expected.values)
        np.testing.assert_array_equal(got.geometry, expected.geometry)


def test_an_import_goes_on_where_extraction_stopped(tmp_path: Path, exported: Path) -> None:
    store = FeatureStore.create(tmp_path / "half")
    dataset = store.create_dataset("toy", shard_rows=4)
    dataset.append_videos(videos(0, 10))
    dataset.define_crop_set(CROPS, policy())
    extract(dataset, shards=[1])
    report = store.import_hdf5(exported)
    assert (report.shards_written, report.shards_skipped) == (2, 1)
    check_features(store.dataset("toy"))


def test_features_made_another_way_are_not_mixed(tmp_path: Path, exported: Path) -> None:
    store = new_store(tmp_path)
    store.import_hdf5(exported)
    with h5py.File(exported, "r+") as file:
        origin = json.loads(file["provenance_json"][:].tobytes())
        origin["fingerprint"]["backbone"]["weights"] = "1" * 64
        del file["provenance_json"]
        file["provenance_json"] = np.frombuffer(json.dumps(origin).encode(), np.uint8)
    with pytest.raises(FingerprintMismatchError, match=r"backbone\.weights"):
        store.import_hdf5(exported)


def test_pending_rows_stay_pending(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", num_videos=6, shard_rows=4)
    store.dataset("toy").append_videos(videos(6, 9))
    path = store.dataset("toy").select().to_hdf5(tmp_path / "x.h5", CROPS, FEATURES)
    target = new_store(tmp_path)
    target.import_hdf5(path)
    status = target.dataset("toy").status(CROPS, FEATURES)["status"].to_pylist()
    assert [s == "pending" for s in status] == [False] * 6 + [True] * 3


def test_an_empty_selection_is_a_file_too(tmp_path: Path) -> None:
    dataset = make_store(tmp_path / "store").dataset("toy")
    path = dataset.select("false").to_hdf5(tmp_path / "none.h5", CROPS, FEATURES)
    with h5py.File(path) as file:
        assert file["values"].shape == (0, NUM_CROPS, DIM)
    with pytest.raises(PipelineError):
        new_store(tmp_path).import_hdf5(path)


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    dataset = make_store(tmp_path / "store").dataset("toy")
    with pytest.raises(NotFoundError):
        dataset.select().to_hdf5(tmp_path / "x.h5", CROPS, "nope")
    with pytest.raises(InvalidInputError):
        dataset.select().to_hdf5(tmp_path / "no" / "folder" / "x.h5", CROPS, FEATURES)
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


# ---- files of other people ----


def write_foreign(path: Path, **arrays: Any) -> Path:
    content: dict[str, Any] = {
        "feats": np.arange(24, dtype=np.float32).reshape(4, 6),
        "names": np.array([b"a.mp4", b"b.mp4", "ü.mp4".encode(), b"d.mp4"]),
        **arrays,
    }
    with h5py.File(path, "w") as file:
        for name, data in content.items():
            if data is not None:
                file.create_dataset(name, data=data)
    return path


def test_a_foreign_file_with_named_arrays(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "f.h5", y=np.array([3, 1, 2, 3]))
    store = new_store(tmp_path)
    names = {"values": "feats", "video_id": "names", "label": "y"}
    report = store.import_hdf5(path, names=names, **FOREIGN)
    assert report.rows_written == 4
    dataset = store.dataset("other")
    assert dataset.videos["video_id"].to_pylist() == ["a.mp4", "b.mp4", "ü.mp4", "d.mp4"]
    assert dataset.videos["label"].to_pylist() == ["3", "1", "2", "3"]
    block = dataset.select().features("whole", "clip")
    np.testing.assert_array_equal(block.values[:, 0], np.arange(24).reshape(4, 6))
    assert block.values.dtype == np.float32
    assert block.valid.all()
    assert not block.geometry.any()
    crop_policy = dataset.crop_policy("whole")
    assert isinstance(crop_policy, ImportedPolicy)
    assert crop_policy.geometry == "none"
    assert "sha256" in dataset.feature_info("whole", "clip").fingerprint["imported"]


def test_what_is_not_finite_is_masked_and_said(tmp_path: Path) -> None:
    values = np.zeros((4, 3, 6), np.float64)
    values[1, 2, 0] = np.nan
    values[2, 0, 0] = np.inf
    values[3, 1, 5] = 1e6  # not in float16
    path = write_foreign(tmp_path / "f.h5", feats=values)
    store = new_store(tmp_path)
    report = store.import_hdf5(path, names={"values": "feats", "video_id": "names"}, dtype="float16", **FOREIGN)
    assert report.rows_non_finite == 3
    dataset = store.dataset("other")
    assert dataset.status("whole", "clip")["status"].to_pylist() == ["ok"] + ["non_finite"] * 3
    block = dataset.select().features("whole", "clip")
    assert np.argwhere(~block.valid).tolist() == [[1, 2], [2, 0], [3, 1]]
    assert np.isfinite(block.values).all()


def _external_link(file: h5py.File, outside: Path) -> None:
    del file["feats"]
    file["feats"] = h5py.ExternalLink(str(outside), "feats")


def _soft_link(file: h5py.File, outside: Path) -> None:
    file.move("feats", "real")
    file["feats"] = h5py.SoftLink("/real")


def _external_data(file: h5py.File, outside: Path) -> None:
    del file["feats"]
    file.create_dataset("feats", (4, 6), "f4", external=[(str(outside), 0, 96)])


def _virtual(file: h5py.File, outside: Path) -> None:
    del file["feats"]
    layout = h5py.VirtualLayout((4, 6), "f4")
    layout[:] = h5py.VirtualSource(str(outside), "feats", (4, 6))
    file.create_virtual_dataset("feats", layout)


def _objects(file: h5py.File, outside: Path) -> None:
    del file["feats"]
    file.create_dataset("feats", (4,), h5py.vlen_dtype(np.float32))


def _object_names(file: h5py.File, outside: Path) -> None:
    del file["names"]
    file.create_dataset("names", data=["a", "b", "c", "d"], dtype=h5py.string_dtype())


def _references(file: h5py.File, outside: Path) -> None:
    del file["feats"]
    file.create_dataset("feats", (4, 6), h5py.ref_dtype)


def _compound(file: h5py.File, outside: Path) -> None:
    del file["feats"]
    file.create_dataset("feats", (4, 6), [("a", "f4")])


def _huge_unwritten(file: h5py.File, outside: Path) -> None:
    del file["feats"]
    file.create_dataset("feats", (1 << 30, 6), "f4", chunks=(1024, 6))


def _huge_rows(file: h5py.File, outside: Path) -> None:
    del file["feats"]
    file.create_dataset("feats", (4, 1 << 20, 1 << 19), "f4", chunks=(1, 1, 1024))


def _bomb(file: h5py.File, outside: Path) -> None:
    del file["feats"]
    data = file.create_dataset("feats", (1 << 26, 6), "f4", chunks=(1 << 20, 6), compression="gzip")
    data[: 1 << 20] = 0


def _huge_chunk(file: h5py.File, outside: Path) -> None:
    del file["feats"]
    data = file.create_dataset("feats", (4, 6), "f4", chunks=(1 << 25, 6), maxshape=(None, 6), compression="gzip")
    assert data.chunks


def _no_rows(file: h5py.File, outside: Path) -> None:
    del file["feats"]
    file.create_dataset("feats", (0, 6), "f4")


def _scalar(file: h5py.File, outside: Path) -> None:
    del file["feats"]
    file["feats"] = 1.0


def _whole_numbers(file: h5py.File, outside: Path) -> None:
    del file["feats"]
    file["feats"] = np.zeros((4, 6), np.int64)


def _a_group(file: h5py.File, outside: Path) -> None:
    del file["feats"]
    file.create_group("feats/inner")


def _other_length(file: h5py.File, outside: Path) -> None:
    del file["names"]
    file["names"] = np.array([b"a", b"b"])


def _same_names(file: h5py.File, outside: Path) -> None:
    del file["names"]
    file["names"] = np.array([b"a"] * 4)


def _not_text(file: h5py.File, outside: Path) -> None:
    del file["names"]
    file["names"] = np.array([b"\xff\xfe", b"b", b"c", b"d"])


def _no_names(file: h5py.File, outside: Path) -> None:
    del file["names"]


def _wrong_valid(file: h5py.File, outside: Path) -> None:
    file["valid"] = np.ones((4, 2), bool)


@pytest.mark.parametrize(
    "damage",
    [
        _external_link, _soft_link, _external_data, _virtual, _objects, _object_names, _references, _compound,
        _huge_unwritten, _huge_rows, _bomb, _no_rows, _scalar, _whole_numbers, _a_group, _other_length, _same_names,
        _not_text, _no_names, _wrong_valid,
    ],
)  # fmt: skip
def test_hostile_and_broken_files_are_refused(tmp_path: Path, damage: Callable[[h5py.File, Path], None]) -> None:
    outside = write_foreign(tmp_path / "outside.h5")
    path = write_foreign(tmp_path / "f.h5")
    with h5py.File(path, "r+") as file:
        damage(file, outside)
    store = new_store(tmp_path)
    with pytest.raises((InvalidInputError, NotFoundError, FormatError)) as caught:
        store.import_hdf5(path, names={"values": "feats", "video_id": "names"}, **FOREIGN)
    assert "expected" in str(caught.value)
    assert not store.backend.exists("other/crops/whole/features/clip/zarr.json")


def test_a_file_that_is_no_hdf5(tmp_path: Path, exported: Path) -> None:
    store = new_store(tmp_path)
    with pytest.raises(NotFoundError):
        store.import_hdf5(tmp_path / "nope.h5")
    (tmp_path / "text.h5").write_text("not hdf5")
    with pytest.raises(CorruptDataError, match="HDF5"):
        store.import_hdf5(tmp_path / "text.h5")
    whole = exported.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "torn.h5").write_bytes(whole[:length])
        with pytest.raises(PipelineError):
            store.import_hdf5(tmp_path / "torn.h5")


def test_names_must_be_given_and_known(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "f.h5")
    store = new_store(tmp_path)
    with pytest.raises(InvalidInputError, match="dataset, crops, feature_set"):
        store.import_hdf5(path)
    with pytest.raises(InvalidInputError, match="feets"):
        store.import_hdf5(path, names={"feets": "feats"}, **FOREIGN)
    with pytest.raises(NotFoundError, match="feats, names"):
        store.import_hdf5(path, **FOREIGN)
    with pytest.raises(InvalidInputError, match="name"):
        store.import_hdf5(path, names={"values": "feats", "video_id": "names"}, **{**FOREIGN, "dataset": "../out"})
    with pytest.raises(ShapeMismatchError):
        store.import_hdf5(path, names={"values": "names", "video_id": "names"}, **FOREIGN)


def test_provenance_of_nonsense_is_refused(tmp_path: Path, exported: Path) -> None:
    for content in (b"{", b"[]", b"{}", b'{"fingerprint": {}, "crop_policy": {"policy": "no"}}', b"[" * 100_000):
        with h5py.File(exported, "r+") as file:
            del file["provenance_json"]
            file["provenance_json"] = np.frombuffer(content, np.uint8)
        with pytest.raises((FormatError, InvalidInputError)):
            new_store(tmp_path).import_hdf5(exported)
