"""Linear probes read a readout alike, whether they compute it or `embed` wrote it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aggregate.stage import plan_embed, run_embed
from pipeline import FeatureStore
from pipeline.products.report import report_products
from pipeline.settings import Settings
from probe.data.readouts import Reader
from probe.methods.trained import _inputs
from probe.trained.inputs import prepare
from tests.probe.test_readouts import BOTH, RGB, measure, order_store, recipe

LINEAR = {"kind": "linear", "crops": "c", "backbone": RGB, "readouts": ["cls"]}
HEAVIER = {"of": [BOTH["of"][0], {**BOTH["of"][1], "weight": 3}]}
READOUTS: dict[str, dict[str, Any]] = {
    "heavier": HEAVIER,
    "white": {**BOTH, "project": "whitened", "strength": 3},
    "white_parts": {**HEAVIER, "project": "whitened_parts", "strength": 3},
    "agree": {"of": [{"crops": "c", "backbone": RGB}], "project": "vicreg", "outputs": 8, "strength": 3},
}
EMBED = [{"name": f"{name}_set", "crops": "c", "backbone": RGB, "readout": name} for name in ("moments", *READOUTS)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    store = order_store(Path(tmp_path_factory.mktemp("embedded")))
    wanted = recipe(embed=EMBED, readouts=READOUTS)
    run_embed(plan_embed(wanted, store, Settings()), store, Settings(device="cpu"))
    return store


@pytest.mark.parametrize("name", ["moments", *READOUTS])
def test_an_embedding_set_is_scaled_as_the_readout_that_it_is(store: FeatureStore, name: str) -> None:
    embed = [one for one in EMBED if one["readout"] == name]
    wanted = recipe({**LINEAR, "readouts": [name, "cls"]}, embed=embed, readouts=READOUTS)
    (report,) = report_products(wanted)
    reader = Reader(store.dataset("toy"))
    computed, embedded = reader.readouts(report.measurements[0], (name, "cls"))
    assert (computed.embedding, embedded.embedding) == (None, f"{name}_set")
    for ours, theirs in zip(prepare(*_inputs(computed)), prepare(*_inputs(embedded)), strict=True):
        every = np.arange(len(ours))
        a, b = (side.take(torch.from_numpy(every))[0].numpy() for side in (ours, theirs))
        np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(a).max())


@pytest.mark.parametrize("name", ["heavier", "white"])
def test_both_paths_give_the_same_accuracy(store: FeatureStore, name: str) -> None:
    embed = [one for one in EMBED if one["readout"] == name]
    wanted = recipe({**LINEAR, "readouts": [name, "cls"]}, embed=embed, readouts=READOUTS)
    found = [r.top1 for r in measure(store, wanted).results if r.protocol == "selected"]
    assert len(found) == 2
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("readouts", "embed", "changes"),
    [(["cls"], EMBED[:1], True), (["mean"], EMBED[:1], False), (["cls"], [], False), (["moments"], EMBED[:1], False)],
)
def test_only_reports_that_read_such_sets_are_made_again(
    store: FeatureStore, readouts: list[str], embed: list[dict[str, Any]], changes: bool
) -> None:
    (report,) = report_products(recipe({**LINEAR, "readouts": readouts}, embed=embed, readouts=READOUTS))
    assert ("embedding_scaling" in report.content(store.dataset("toy"))["probes"][0]) == changes
