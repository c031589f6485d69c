"""How a set's network runs is decided once, by whoever begins it, and everybody after does as it says."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from extract import plan_extract, run_extract
from extract.backbones import Backbone, load_backbone
from extract.backbones.interface import COMPILED, OPENVINO, PLAIN
from extract.backbones.openvino_network import is_installed
from extract.run.network_record import NETWORK
from extract.run.plan import ExtractPlan
from pipeline import Dataset, FeatureStore
from pipeline.events import Event, Note
from pipeline.recipe import Recipe
from pipeline.settings import Settings
from pipeline.verify.verify_store import verify_store
from tests.support.extraction import DIM, catalogue, extract_all, make_videos, read_everything, tiny_recipe

CROPS = {"few": {"policy": "random", "num_crops": 2, "num_frames": 4, "stride": 2, "size_px": 16, "short_side_px": 20}}
SET = ("few", "tiny")


@pytest.fixture
def begun(tmp_path: Path, program: tuple[Path, str]) -> tuple[Recipe, FeatureStore, Settings]:
    """A store with a catalogue of four shards and no features."""
    settings = Settings(data=make_videos(tmp_path / "data", [12, 14, 13, 16]), workers=1)
    recipe = tiny_recipe(program, crops=CROPS, shard_rows=1)
    store = FeatureStore.create(str(tmp_path / "s"))
    catalogue(recipe, store, settings)
    return recipe, store, settings


def begin(store: FeatureStore, plan: ExtractPlan, network: str | None) -> None:
    """Make the set, and no shard of it."""
    (target,) = plan.targets
    dataset = store.dataset("set")
    dataset.define_crop_set(target.crops, target.policy)
    dataset.writer(*SET, fingerprint=dict(target.fingerprint), dim=DIM, dtype="float32", network=network)


def networks_of(dataset: Dataset) -> list[str | None]:
    """How the network really ran, by shard."""
    ledger = dataset.ledger(*SET)
    return [ledger.entry(shard).versions.get(NETWORK) for shard in sorted(ledger.generations)]


def decided(recipe: Recipe, settings: Settings, way: str, wait: threading.Barrier) -> Backbone:
    """Return a backbone that would run one way by itself, and waits for another worker to have decided too."""

    def decide(backbone: Backbone, shape: tuple[int, ...]) -> None:
        if backbone.as_before is None:
            wait.wait(60)
        backbone.use_for(shape, lambda clips: network(clips), backbone.as_before or way)

    plain = load_backbone(recipe.backbones["tiny"], settings)
    network = plain.network
    return Backbone(plain.info, network, dim=plain.dim, device=torch.device("cpu"), before_size=decide)


def test_who_begins_a_set_decides_by_all_of_it_however_few_shards_it_does(
    begun: tuple[Recipe, FeatureStore, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As workers of a cluster do, to whom shards come one by one, and who begins with `--shards 0`."""
    recipe, store, settings = begun
    asked: list[int] = []

    def optimise(_backbone: Backbone, _shape: object, num_crops: int, *_: object, **__: object) -> None:
        asked.append(num_crops)

    monkeypatch.setattr("extract.backbones.load.optimise", optimise)
    whole = plan_extract(recipe, store, settings)
    for shards, num_left in (([0], 4), ([2, 1], 3)):
        plan = plan_extract(recipe, store, settings, shards=shards)
        assert plan.num_crops == 2 * len(shards)
        assert plan.num_crops_lacking("tiny") == 2 * num_left
        run_extract(plan, store, settings)
        store = FeatureStore.open(store.url, mode="a")
    assert whole.num_crops_lacking("tiny") == 8
    assert asked == [8, 6]
    assert plan_extract(recipe, store, settings, shards=[0]).num_crops_lacking("tiny") == 2


def test_what_other_runs_have_to_do_is_counted_to_the_row(
    begun: tuple[Recipe, FeatureStore, Settings], tmp_path: Path, program: tuple[Path, str]
) -> None:
    """Of four videos, three stand in the first shard and one in the last."""
    _, _, settings = begun
    recipe = tiny_recipe(program, crops=CROPS, shard_rows=3)
    store = FeatureStore.create(str(tmp_path / "threes"))
    catalogue(recipe, store, settings)

    def rows_elsewhere(shards: list[int] | None) -> int:
        plan = plan_extract(recipe, FeatureStore.open(store.url), settings, shards=shards)
        return plan.num_elsewhere["few/tiny"] // 2

    assert [rows_elsewhere(shards) for shards in (None, [0], [1], [0, 1])] == [0, 1, 3, 0]
    run_extract(plan_extract(recipe, store, settings, shards=[1]), store, settings)
    assert [rows_elsewhere(shards) for shards in (None, [0], [1], [0, 1])] == [0, 0, 3, 0]


def test_two_that_begin_a_set_at_once_run_the_network_alike(begun: tuple[Recipe, FeatureStore, Settings]) -> None:
    recipe, store, settings = begun
    ways, both = (OPENVINO, COMPILED), threading.Barrier(2)

    def work(way: str) -> None:
        own = FeatureStore.open(store.url, mode="a")
        plan = plan_extract(recipe, own, settings)
        assert plan.ways == {}
        run_extract(plan, own, settings, backbones={"tiny": decided(recipe, settings, way, both)})

    with ThreadPoolExecutor(2) as workers:
        list(workers.map(work, ways))
    dataset = FeatureStore.open(store.url).dataset("set")
    recorded = dataset.feature_info(*SET).network
    assert recorded in ways
    assert networks_of(dataset) == [recorded] * 4
    assert plan_extract(recipe, FeatureStore.open(store.url), settings).ways == {"tiny": recorded}
    assert verify_store(store).problems == ()


@pytest.mark.skipif(not is_installed(), reason="openvino is not installed")
def test_a_set_recorded_so_is_made_by_openvino_and_equal(
    begun: tuple[Recipe, FeatureStore, Settings], tmp_path: Path
) -> None:
    recipe, store, settings = begun
    begin(store, plan_extract(recipe, store, settings), network=OPENVINO)
    run_extract(plan_extract(recipe, store, settings), store, settings)
    found = FeatureStore.open(store.url)
    assert networks_of(found.dataset("set")) == [OPENVINO] * 4
    plain, _ = extract_all(recipe, tmp_path / "plain", settings)
    assert networks_of(plain.dataset("set")) == [PLAIN] * 4
    ours, expected = (read_everything(one, recipe)["few/tiny"] for one in (found, plain))
    assert expected["valid"].any()
    np.testing.assert_array_equal(ours["valid"], expected["valid"])
    np.testing.assert_allclose(ours["values"], expected["values"], rtol=1e-4, atol=1e-5)


def test_a_record_that_nobody_here_can_follow_is_said_and_kept(
    begun: tuple[Recipe, FeatureStore, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where who decided died before it had made a shard, and others have no OpenVINO."""
    recipe, store, settings = begun
    begin(store, plan_extract(recipe, store, settings), network=OPENVINO)
    monkeypatch.setattr("extract.backbones.openvino_network.is_installed", lambda: False)
    events: list[Event] = []
    run_extract(plan_extract(recipe, store, settings), store, settings, events.append)
    (note,) = (event.text for event in events if isinstance(event, Note))
    assert "the shards that are there were made with OpenVINO: pip install" in note
    dataset = FeatureStore.open(store.url).dataset("set")
    assert networks_of(dataset) == [PLAIN] * 4
    assert dataset.feature_info(*SET).network == OPENVINO


def test_a_set_without_a_record_is_gone_on_with_as_its_first_shard_says(
    begun: tuple[Recipe, FeatureStore, Settings],
) -> None:
    recipe, store, settings = begun
    plan = plan_extract(recipe, store, settings, shards=[0])
    begin(store, plan, network=None)  # as sets were made before
    nobody = threading.Barrier(1)
    run_extract(plan, store, settings, backbones={"tiny": decided(recipe, settings, COMPILED, nobody)})
    assert store.dataset("set").feature_info(*SET).network is None
    rest = plan_extract(recipe, FeatureStore.open(store.url), settings)
    assert rest.ways == {"tiny": COMPILED}
    run_extract(rest, store, settings, backbones={"tiny": decided(recipe, settings, OPENVINO, nobody)})
    assert networks_of(FeatureStore.open(store.url).dataset("set")) == [COMPILED] * 4
