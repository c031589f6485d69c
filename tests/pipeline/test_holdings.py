"""What a store holds and how far it is, as values that a page or a notebook can ask for."""

import pytest

from pipeline import FeatureStore
from pipeline.errors import NoDataError
from pipeline.query.holdings import HeldFeatures, feature_pairs, holdings, progress, remembered_recipes
from tests.support.stores import make_store


def test_holdings_of_every_dataset(tmp_path):
    assert holdings(FeatureStore.create(tmp_path / "empty")) == []
    store = make_store(tmp_path / "s", num_videos=20, num_crops=4, dim=8)
    (held,) = holdings(store)
    ds = store.dataset(held.dataset)
    (pair,) = feature_pairs(ds)
    info = ds.feature_info(*pair)
    shards = f"{info.num_shards}/{info.num_shards}"
    assert held.features == (HeldFeatures("/".join(pair), 4, 8, "float16", shards, info.fingerprint_id[:12]),)
    ds.writer(pair[0], "other", fingerprint={}, dim=8, network="openvino")
    ((_, other),) = (sorted(one.features, key=lambda f: f.features) for one in holdings(FeatureStore.open(store.url)))
    assert (held.features[0].network, other.network) == ("", "openvino")
    assert (held.videos, held.snapshot, held.models) == (20, ds.snapshot(), ())
    assert list(held.as_json()) == [
        "dataset", "videos", "features", "embeddings", "models", "indexes", "reports", "maps", "snapshot"
    ]  # fmt: skip


def test_progress_counts_statuses_and_names_failures(tmp_path):
    store = make_store(tmp_path / "s", num_videos=20, num_crops=4, dim=8)
    ds = store.dataset(store.datasets()[0])
    (found,), failed = progress(ds)
    assert (found.done, found.total, sum(found.statuses.values())) == (20, 20, 20)
    assert len(failed) == sum(n for status, n in found.statuses.items() if status not in ("ok", "pending"))
    assert progress(ds, []) == ([], [])


def test_without_a_remembered_recipe_nothing_can_be_retried(tmp_path):
    store = make_store(tmp_path / "s", num_videos=8, num_crops=2, dim=4)
    with pytest.raises(NoDataError, match="expected features that remember their recipe"):
        remembered_recipes(store.dataset(store.datasets()[0]))
