"""Readouts that need no training, through probes and indexes: what order of time says, streams joined, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import FeatureStore
from pipeline.errors import RecipeError
from pipeline.products.report import report_products
from pipeline.readouts.moments import crop_times, moments
from pipeline.recipe import Recipe, parse_recipe
from pipeline.settings import Settings
from probe import plan_probe, run_probe
from probe.index.stage import open_index, plan_index, run_index, search_stored
from probe.methods.trained import channel_scale
from probe.results import ProbeReport
from probe.trained.inputs import Input, prepare
from tests.support.stores import fill, make_geometry, make_store

NUM, NUM_CROPS, DIM = 48, 6, 8
LABELS = ["up", "down", "up then down"] * (NUM // 3)
SPLITS = ["train"] * 30 + ["test"] * 18
RGB, MOTION = "x3d_xs", "x3d_xs-tgrad"
BOTH = {"of": [{"crops": "c", "backbone": RGB}, {"crops": "c", "backbone": MOTION, "take": ["mean"]}]}
KNN = {"kind": "knn", "crops": "c", "backbone": RGB, "k": [5]}


def recipe(*probes: dict[str, Any], **more: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": "toy-run",
        "dataset": {"name": "toy", "videos": "*.mp4"},
        "crops": {"c": {"policy": "random", "num_crops": NUM_CROPS}},
        "backbones": {
            "x3d_xs": {
                "kind": "pytorchvideo",
                "model": "x3d_xs",
                "streams": ["rgb", "tgrad"],
                "weights": {"random": 3},
            }
        },
        "probes": list(probes),
        **more,
    }
    return parse_recipe(content)


def order_store(folder: Path) -> FeatureStore:
    """The mean over crops says nothing; the class is in which feature comes when."""
    rng = np.random.default_rng(0)
    geometry = make_geometry(np.arange(NUM), NUM_CROPS)
    u = crop_times(geometry.astype(np.float64))
    courses = {"up": np.cos(np.pi * u), "down": -np.cos(np.pi * u), "up then down": np.cos(2 * np.pi * u)}
    signal = np.stack([courses[label][n] for n, label in enumerate(LABELS)])
    signal -= signal.mean(1, keepdims=True)
    values = rng.normal(size=(NUM, 1, DIM)) * 2 + 0.1 * rng.normal(size=(NUM, NUM_CROPS, DIM))
    values[..., 0] += signal
    store = make_store(
        folder, crops="c", feature_set=RGB, labels=LABELS, splits=SPLITS, values=values, geometry=geometry
    )
    motion = rng.normal(size=(NUM, NUM_CROPS, 5)).astype(np.float32)
    fill(store, crops="c", feature_set=MOTION, dim=5, values=motion, geometry=geometry)
    return store


def measure(store: FeatureStore, wanted: Recipe) -> ProbeReport:
    settings = Settings(device="cpu")
    return run_probe(plan_probe(wanted, store, settings), store, settings, render=lambda report: "<html>")


def top1(report: ProbeReport, readout: str, probe: str = "knn") -> float:
    return next(
        r.top1
        for r in report.results
        if (r.probe, r.readout) == (probe, readout) and r.protocol in ("strict", "selected")
    )


def test_moments_read_the_order_that_the_mean_cannot(tmp_path: Path) -> None:
    store = order_store(tmp_path)
    linear = {"kind": "linear", "crops": "c", "backbone": RGB, "epochs": 2, "learning_rates": [3e-2]}
    names = ["mean", "sqrt", "std", "moments", "both", "white", "agree"]
    wanted = recipe(
        {**KNN, "readouts": names},
        {**linear, "readouts": ["moments"]},
        {"kind": "retrieval", "crops": "c", "backbone": RGB, "readouts": ["moments"]},
        readouts={
            "both": BOTH,
            "white": {**BOTH, "project": "whitened", "strength": 3},
            "agree": {"of": [{"crops": "c", "backbone": RGB}], "project": "vicreg", "outputs": 8},
        },
    )
    report = measure(store, wanted)
    assert top1(report, "mean") < 0.7
    assert top1(report, "moments") > 0.9
    assert top1(report, "both") > 0.8
    assert {r.num_channels for r in report.results if r.probe == "linear"} == {4 * DIM}
    assert {r.readout for r in report.results if r.probe == "knn"} == set(names)
    assert all(r.used == 18 for r in report.results)
    white = next(r for r in report.results if r.readout == "white")
    assert any("3 mean variances" in note for note in white.notes)
    assert white.num_channels == 4 * DIM + 5
    assert next(r for r in report.results if r.readout == "agree").num_channels <= 8
    snapshots = {r.readout: r.snapshot for r in report.results if r.probe == "knn"}
    assert snapshots["both"] != snapshots["moments"]


def test_trained_probes_keep_what_a_projection_decided() -> None:
    """Every channel by its own deviation would undo the whitening."""
    values = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32) * [1, 10, 100]
    train, _ = prepare(Input.of(values, is_scaled=True), Input.of(values, is_scaled=True))
    assert train.scale_D is not None
    assert len(set(train.scale_D.tolist())) == 1
    seen, _ = train.take(torch.arange(20))
    assert seen.square().mean().item() == pytest.approx(1, abs=0.05)
    own, _ = prepare(Input.of(values), Input.of(values))
    assert own.scale_D is not None
    assert len(set(own.scale_D.tolist())) == 3


def test_trained_probes_scale_channels_within_parts_and_keep_the_say_of_parts() -> None:
    values = np.random.default_rng(0).normal(size=(400, 12)) * np.geomspace(1, 30, 12)
    scaled = values * channel_scale(values, [8, 4], [1.0, 3.0])
    deviation = scaled.std(axis=0)
    assert deviation[:8] == pytest.approx(8**-0.5)
    assert deviation[8:] == pytest.approx(3 * 4**-0.5)
    quiet = values * np.array([1e-6] + [1] * 11)  # noise that is nearly constant is not blown up
    assert (quiet * channel_scale(quiet, [12])).std(axis=0)[0] < 0.1
    constant = np.ones((5, 3), np.float32)
    assert np.isfinite(channel_scale(constant, [3])).all()


def test_reports_of_before_are_made_again_where_channels_are_scaled_in_another_way(tmp_path: Path) -> None:
    store = order_store(tmp_path)
    readouts = {"both": BOTH, "white": {**BOTH, "project": "whitened", "strength": 3}}
    linear = {"kind": "linear", "crops": "c", "backbone": RGB}
    ds = store.dataset("toy")
    for name, changes in (("mean", False), ("moments", True), ("both", True), ("white", False)):
        wanted = recipe({**linear, "readouts": [name]}, readouts=readouts)
        (report,) = report_products(wanted)
        assert ("scaling" in report.content(ds)["probes"][0]) == changes, name


def test_strength_is_chosen_on_training_groups_alone(tmp_path: Path) -> None:
    """Other test labels change nothing of what is chosen, and the report says how it was."""
    store = order_store(tmp_path)
    report = measure(store, recipe({**KNN, "readouts": ["white"]}, readouts={"white": {**BOTH, "project": "whitened"}}))
    notes = {note for r in report.results for note in r.notes}
    assert any("chosen on training groups" in note for note in notes)


def test_a_report_is_made_again_when_a_second_stream_changes(tmp_path: Path) -> None:
    store = order_store(tmp_path)
    wanted = recipe({**KNN, "readouts": ["both"]}, readouts={"both": BOTH})
    measure(store, wanted)
    assert plan_probe(wanted, store, Settings()).is_empty
    other = recipe({**KNN, "readouts": ["both"]}, readouts={"both": {**BOTH, "cosines": 1}})
    assert not plan_probe(other, store, Settings()).is_empty
    unused = recipe({**KNN, "readouts": ["both"]}, readouts={"both": BOTH, "more": BOTH})
    assert plan_probe(unused, store, Settings()).is_empty


def test_an_index_of_joined_streams_finds_what_brute_force_finds(tmp_path: Path) -> None:
    store = order_store(tmp_path)
    heavier = {"of": [BOTH["of"][0], {**BOTH["of"][1], "weight": 2}]}
    wanted = recipe(
        indexes=[
            {"crops": "c", "backbone": RGB, "readout": "moments"},
            {"name": "two", "crops": "c", "readout": "both"},
        ],
        readouts={"both": heavier},
    )
    plan = plan_index(wanted, store, Settings())
    assert [one.product.name for one in plan.standings] == ["default", "two"]
    assert run_index(plan, store, Settings()).did["indexes_built"] == 2
    assert plan_index(wanted, store, Settings()).is_empty
    block = store.dataset("toy").select().features("c", RGB)
    parts = list(moments(block.values, block.valid, block.geometry).values())
    motion = store.dataset("toy").select().features("c", MOTION)
    parts.append(moments(motion.values, motion.valid, motion.geometry)["mean"])
    centred = [p - p.mean(0) for p in parts]
    unit = [w * p / np.linalg.norm(p, axis=1, keepdims=True) for p, w in zip(centred, (1, 1, 1, 1, 2), strict=True)]
    joined = np.concatenate(unit, axis=1)
    cosines = joined @ joined.T / 8
    np.fill_diagonal(cosines, -2)
    video_id = store.dataset("toy").videos["video_id"][7].as_py()
    found = search_stored(store, "toy", "two", [video_id], 5)
    assert found.rows[0].tolist() == np.argsort(-cosines[7])[:5].tolist()
    np.testing.assert_allclose(found.similarities[0], np.sort(cosines[7])[::-1][:5], atol=1e-4)
    assert open_index(store, "toy", "default").source.label == "moments of c/x3d_xs"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"probes": [{**KNN, "readouts": ["momnets"]}]}, "expected one of .*moments.*found 'momnets'"),
        ({"readouts": {"mean": BOTH}}, "a meaning of its own"),
        ({"readouts": {"both": {"of": [{"crops": "c", "backbone": "slow"}]}}}, "c/x3d_xs-tgrad"),
        (
            {"readouts": {"w": {**BOTH, "project": "whitened"}}, "indexes": [{"crops": "c", "readout": "w"}]},
            "without projection",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_can(more: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(**more)
