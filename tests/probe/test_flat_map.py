"""Flat maps: near things lie near, what is kept is what is read, and nothing else is believed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
from pipeline import FeatureStore
from pipeline.errors import CorruptDataError, InvalidInputError, NotFoundError
from pipeline.verify.verify_store import verify_store
from probe.flat_map import make_map, map_bytes, map_sources, parse_map, read_map, save_map
from tests.support.stores import CROPS, FEATURE_SET, make_store

SOURCE = f"mean of {CROPS}/{FEATURE_SET}"


@pytest.fixture
def store(tmp_path):
    """Forty videos in two far clusters."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((40, 2, 12)) * 0.1
    values[::2] += 1
    values[1::2] -= 1
    labels = ["even" if i % 2 == 0 else "odd" for i in range(40)]
    return make_store(tmp_path / "s", labels=labels, values=values.astype(np.float16), shard_rows=16)


def apart(points: np.ndarray) -> float:
    centres = points[::2].mean(axis=0), points[1::2].mean(axis=0)
    spread = max(np.linalg.norm(points[k::2] - centres[k], axis=1).mean() for k in (0, 1))
    return float(np.linalg.norm(centres[0] - centres[1]) / spread)


def test_principal_components_tell_clusters_apart(store):
    made = make_map(store.dataset("toy"), SOURCE)
    assert made.rows.tolist() == list(range(40))
    assert apart(made.points) > 4
    assert np.abs(made.points).max() == pytest.approx(1)
    assert made.explained[0] > 0.9
    few = make_map(store.dataset("toy"), SOURCE, max_points=10)
    assert len(few.rows) == 10
    assert few.rows[0] == 0
    assert few.rows[-1] == 39


@pytest.mark.soak
def test_umap_tells_clusters_apart_the_same_way_twice(store):
    pytest.importorskip("umap")
    made = [make_map(store.dataset("toy"), SOURCE, "umap", seed=3) for _ in range(2)]
    np.testing.assert_array_equal(made[0].points, made[1].points)
    assert apart(made[0].points) > 4
    assert made[0].explained == (0.0, 0.0)


def test_a_map_is_kept_read_and_gone_with_an_erased_video(store):
    ds = store.dataset("toy")
    made = make_map(ds, SOURCE)
    save_map(ds, "flat", made)
    kept = read_map(ds, "flat")
    np.testing.assert_array_equal(kept.points, made.points)
    assert (kept.source, kept.method, kept.snapshot, kept.num_videos) == (SOURCE, "pca", made.snapshot, 40)
    assert verify_store(store).problems == ()
    ds.remove_videos([3], erase=True)
    assert 3 not in make_map(store.dataset("toy"), SOURCE).rows
    ds.erase_removed()
    assert store.dataset("toy").artifacts("maps") == []
    assert verify_store(store).is_clean


def test_the_shell_makes_maps(store):
    done = CliRunner().invoke(app, ["map", store.url, "--name", "mine", "--json"])
    assert done.exit_code == 0, done.output
    assert '"points": 40' in done.stdout
    assert read_map(FeatureStore.open(store.url).dataset("toy"), "mine").source == SOURCE
    for wrong in (["--method", "tsne"], ["--source", "embedding nobody"], ["--name", "../x"]):
        assert CliRunner().invoke(app, ["map", store.url, *wrong]).exit_code != 0


def test_what_is_no_map_is_not_believed(store):
    made = make_map(store.dataset("toy"), SOURCE)
    data = map_bytes(made)
    assert parse_map(data, what="m").num_videos == 40
    bad = [b"", b"PK junk", data[: len(data) // 2]]
    wrong = {"points": np.full((40, 2), np.nan), "rows": np.arange(40)[::-1], "num_videos": 3, "explained": np.zeros(3)}
    for name, value in (*wrong.items(), ("rows", np.arange(39)), ("points", np.array([[{}]], object))):
        fields = dict(np.load(io.BytesIO(data))) | {name: value}

        buffer = io.BytesIO()
        np.savez(buffer, **fields)
        bad.append(buffer.getvalue())
    for one in bad:
        with pytest.raises(CorruptDataError):
            parse_map(one, what="m")
    with pytest.raises(NotFoundError):
        make_map(store.dataset("toy"), "mean of nothing/here")
    with pytest.raises(InvalidInputError):
        make_map(store.dataset("toy"), SOURCE, "tsne")
    assert map_sources(store.dataset("toy")) == [SOURCE]
