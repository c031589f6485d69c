"""SCALE's own `.dat` files: right values, the dtype check its reader lacks, and the same 7-vector as SCALE's code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import FeatureStore
from pipeline.errors import InvalidInputError, NotFoundError, PipelineError, ShapeMismatchError
from pipeline.recipe.crops import ImportedPolicy
from pipeline.storage.schema import GEOMETRY_COLUMNS

N, V, D = 7, 5, 8
ARGUMENTS = {"prefix": "k400", "model": "svt", "variant": "lin", "num_videos": N, "num_crops": V, "dim": D}


def released_normalisation(raw: np.ndarray) -> np.ndarray:
    """What SCALE's dataset does to (flip, h0, w0, h1, w1, t0, t1) of one video's crops; a plain twin of it."""
    out = raw.copy()
    for low, high in ((1, 3), (2, 4), (5, 6)):
        least, most = raw[:, low].min(), raw[:, high].max()
        out[:, low] = (raw[:, low] - least) / (most - least)
        out[:, high] = (raw[:, high] - least) / (most - least)
    return out


def write_files(folder: Path, dtype: str = "float16", seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((N, V, D)).astype(dtype)
    labels = rng.integers(0, 400, N).astype(np.int16)
    raw = np.empty((N, V, 7), np.float32)
    raw[..., 0] = rng.choice([-1, 1], (N, V))
    raw[..., 1:3] = rng.uniform(0, 100, (N, V, 2))
    raw[..., 3:5] = raw[..., 1:3] + 112
    raw[..., 5] = rng.uniform(0, 9, (N, V))
    raw[..., 6] = raw[..., 5] + 2.13
    positions = np.stack([released_normalisation(video) for video in raw]).astype(dtype)
    values[2] = np.nan  # never extracted
    positions[2] = np.nan
    labels[2] = -1
    for name, array in (("lbl", labels), ("pos", positions), ("svt", values)):
        array.tofile(folder / f"k400_{name}_lin.dat")
    (folder / "k400_lin.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")  # nobody may open it
    return values, labels, positions


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_values_labels_and_statuses(tmp_path: Path, dtype: str) -> None:
    values, labels, _ = write_files(tmp_path, dtype)
    store = FeatureStore.create(tmp_path / "store")
    report = store.import_scale_memmaps(tmp_path, dtype=dtype, shard_rows=3, **ARGUMENTS)
    assert (report.rows_written, report.rows_non_finite, report.shards_written) == (N, 1, 3)
    dataset = store.dataset("k400")
    block = dataset.select().features("lin", "svt")
    assert block.values.dtype == dtype
    done = np.arange(N) != 2
    np.testing.assert_array_equal(block.values[done], values[done])
    assert block.valid[done].all()
    assert not block.valid[2].any()
    assert dataset.status("lin", "svt")["status"].to_pylist() == ["ok", "ok", "non_finite", "ok", "ok", "ok", "ok"]
    expected = [None if n == 2 else str(label) for n, label in enumerate(labels)]
    assert dataset.videos["label"].to_pylist() == expected
    assert dataset.videos["video_id"].to_pylist()[3] == "k400/000003"
    info = dataset.feature_info("lin", "svt")
    assert info.fingerprint["imported"]["file"] == "k400_svt_lin.dat"
    again = store.import_scale_memmaps(tmp_path, dtype=dtype, **ARGUMENTS)
    assert (again.shards_written, again.videos_new) == (0, 0)


def test_the_model_reads_what_scale_would_have_given_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from aggregate.data.geometry import derive_geometry

    _, _, positions = write_files(tmp_path, "float32")
    store = FeatureStore.create(tmp_path / "store")
    store.import_scale_memmaps(tmp_path, dtype="float32", **ARGUMENTS)
    block = store.dataset("k400").select().features("lin", "svt")
    derived = derive_geometry(torch.from_numpy(block.geometry.copy()), torch.from_numpy(block.valid.copy())).numpy()
    done = np.arange(N) != 2
    np.testing.assert_allclose(derived[done], positions[done], atol=1e-6)
    crop_policy = store.dataset("k400").crop_policy("lin")
    assert isinstance(crop_policy, ImportedPolicy)
    assert crop_policy.geometry == "per_video"
    assert not block.geometry[..., GEOMETRY_COLUMNS.index("stride")].any()


def test_a_second_backbone_shares_the_geometry(tmp_path: Path) -> None:
    values, _, _ = write_files(tmp_path)
    np.repeat(values, 2, axis=2).tofile(tmp_path / "k400_byl_lin.dat")
    store = FeatureStore.create(tmp_path / "store")
    store.import_scale_memmaps(tmp_path, dtype="float16", **ARGUMENTS)
    store.import_scale_memmaps(tmp_path, dtype="float16", **{**ARGUMENTS, "model": "byl", "dim": 2 * D})
    dataset = store.dataset("k400")
    assert dataset.feature_sets("lin") == ["byl", "svt"]
    one, two = (dataset.select().features("lin", name) for name in ("svt", "byl"))
    np.testing.assert_array_equal(one.geometry, two.geometry)


def test_the_wrong_dtype_is_caught_and_named(tmp_path: Path) -> None:
    """The released reader maps float32 files as float16 without a word."""
    write_files(tmp_path, "float32")
    store = FeatureStore.create(tmp_path / "store")
    with pytest.raises(ShapeMismatchError, match="dtype='float32'"):
        store.import_scale_memmaps(tmp_path, dtype="float16", **ARGUMENTS)
    write_files(tmp_path, "float16")
    with pytest.raises(ShapeMismatchError, match="dtype='float16'"):
        store.import_scale_memmaps(tmp_path, dtype="float32", **ARGUMENTS)
    assert store.datasets() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_videos": N + 1}, f"num_videos={N}"),
        ({"num_crops": V + 1}, "no whole number of rows"),
        ({"dim": D - 1}, "expected 490 bytes .* found 560"),
        ({"num_videos": 0}, "at least 1 video"),
        ({"num_videos": 1 << 62}, "expected"),
        ({"num_crops": 0}, "crops"),
        ({"dim": 1 << 40}, "channels"),
        ({"dtype": "int8"}, "float16"),
        ({"variant": "test"}, "lin, aug or val"),
        ({"variant": "val"}, "k400_svt_val.dat"),
        ({"model": "nope"}, "k400_nope_lin.dat"),
        ({"prefix": "../k400"}, "letters"),
        ({"model": "/etc/passwd"}, "letters"),
        ({"video_ids": ["a"]}, "7 video ids"),
        ({"video_ids": ["a"] * N}, "different video ids"),
        ({"label_names": ["a"]}, "names"),
    ],
)
def test_arguments_that_cannot_be(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_files(tmp_path)
    store = FeatureStore.create(tmp_path / "store")
    arguments = {**ARGUMENTS, "dtype": "float16", **change}
    with pytest.raises((InvalidInputError, NotFoundError), match=message):
        store.import_scale_memmaps(tmp_path, **arguments)


def test_without_labels_and_positions(tmp_path: Path) -> None:
    values, _, _ = write_files(tmp_path)
    (tmp_path / "k400_lbl_lin.dat").unlink()
    (tmp_path / "k400_pos_lin.dat").unlink()
    store = FeatureStore.create(tmp_path / "store")
    ids = [f"v{n}.mp4" for n in range(N)]
    store.import_scale_memmaps(tmp_path, dtype="float16", video_ids=ids, dataset="mine", **ARGUMENTS)
    dataset = store.dataset("mine")
    assert dataset.videos["video_id"].to_pylist() == ids
    assert dataset.videos["label"].null_count == N
    block = dataset.select().features("lin", "svt")
    assert not block.geometry.any()
    np.testing.assert_array_equal(block.values[3], values[3])


def test_the_pickle_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "k400_lin.pkl").chmod(0)
    FeatureStore.create(tmp_path / "store").import_scale_memmaps(tmp_path, dtype="float16", **ARGUMENTS)
    assert not (tmp_path / "pwned").exists()


def test_a_killed_import_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, _, _ = write_files(tmp_path)
    store = FeatureStore.create(tmp_path / "store")
    from pipeline.sets.writer import FeatureWriter

    original = FeatureWriter.write
    calls = []

    def failing(self: FeatureWriter, *args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FeatureWriter, "write", failing)
    with pytest.raises((KeyboardInterrupt, PipelineError)):
        store.import_scale_memmaps(tmp_path, dtype="float16", shard_rows=2, **ARGUMENTS)
    monkeypatch.setattr(FeatureWriter, "write", original)
    report = store.import_scale_memmaps(tmp_path, dtype="float16", **ARGUMENTS)
    assert (report.shards_written, report.shards_skipped) == (3, 1)
    done = np.arange(N) != 2
    block = store.dataset("k400").select().features("lin", "svt")
    np.testing.assert_array_equal(block.values[done], values[done])
