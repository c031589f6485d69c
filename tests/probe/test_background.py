"""Background bias: what the scene alone was worth, on videos whose scenes are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import FeatureStore
from pipeline.errors import RecipeError, ShapeMismatchError
from pipeline.recipe import parse_recipe
from pipeline.settings import Settings
from probe import plan_probe, run_probe
from probe.results import ProbeReport
from tests.support.stores import fill, make_store

NUM, WIDTH = 60, 6
LABELS = ["run", "walk", "jump"] * (NUM // 3)
SPLITS = ["train"] * 36 + ["test"] * 24
RGB, ALONE = "x3d_xs", "x3d_xs-foreground"
BIAS = {"kind": "background", "crops": "c", "backbone": RGB, "foreground": ALONE, "k": 5}


def features(action: float, scene: float) -> tuple[np.ndarray, np.ndarray]:
    """Crops whose first channels show the action and whose others show its usual scene, and the first alone."""
    rng = np.random.default_rng(0)
    places = rng.normal(size=(3, 2 * WIDTH))
    number = np.arange(NUM) % 3
    usual = np.where(rng.random(NUM) < 0.9, number, rng.integers(3, size=NUM))  # one in ten is elsewhere
    strength = np.repeat([action, scene], WIDTH)
    shown = np.concatenate([places[number, :WIDTH], places[usual, WIDTH:]], axis=1) * strength
    whole = shown[:, None] + 0.7 * rng.normal(size=(NUM, 4, 2 * WIDTH))
    alone = whole * (np.arange(2 * WIDTH) < WIDTH)
    return whole.astype(np.float32), alone.astype(np.float32)


def measured(folder: Path, action: float, scene: float, probe: dict[str, Any] = BIAS, **more: Any) -> ProbeReport:
    whole, alone = features(action, scene)
    store = make_store(folder, labels=LABELS, splits=SPLITS, values=whole, crops="c", feature_set=RGB)
    fill(store, crops="c", feature_set=ALONE, dim=alone.shape[2], values=alone, **more)
    return run(store, probe)


def run(store: FeatureStore, probe: dict[str, Any]) -> ProbeReport:
    backbone = {"kind": "pytorchvideo", "model": "x3d_xs", "weights": {"random": 0}, "streams": ["rgb", "foreground"]}
    recipe = parse_recipe({
        "name": "toy", "dataset": {"name": "toy", "videos": "*.mp4"}, "probes": [probe],
        "crops": {"c": {"policy": "random", "num_crops": 4}}, "backbones": {"x3d_xs": backbone},
    })  # fmt: skip
    here = Settings(device="cpu")
    return run_probe(plan_probe(recipe, store, here), store, here, render=lambda report: "<html>")


def slow(whole: np.ndarray, alone: np.ndarray) -> tuple[float, float]:
    """Five nearest of the whole train videos, for both ways of showing a test video."""
    stored = [x.astype(np.float16).astype(np.float64).mean(1) for x in (whole, alone)]
    gallery = stored[0][:36] - stored[0][:36].mean(0)
    found = []
    for x in stored:
        right = 0
        for n in range(36, NUM):
            query = x[n] - x[:36].mean(0)
            s = [float(query @ g) / np.linalg.norm(query) / np.linalg.norm(g) for g in gallery]
            votes = dict.fromkeys(LABELS, 0.0)
            for i in sorted(range(36), key=lambda i, s=s: -s[i])[:5]:
                votes[LABELS[i]] += np.exp(s[i] / 0.07)
            right += max(votes, key=votes.__getitem__) == LABELS[n]
        found.append(right / 24)
    return found[0], found[1]


@pytest.mark.parametrize(("action", "scene"), [(0.2, 1.5), (1.0, 1.0)])
def test_it_is_the_drop_between_two_searches(tmp_path: Path, action: float, scene: float) -> None:
    report = measured(tmp_path, action, scene)
    without, whole = sorted(report.results, key=lambda r: r.protocol)
    assert (without.protocol, whole.protocol) == ("foreground", "whole")
    assert without.is_headline
    assert not whole.is_headline
    assert (whole.top1, without.top1) == slow(*features(action, scene))
    assert without.figures["drop"] == pytest.approx(whole.top1 - without.top1)
    assert without.figures["drop_low"] <= without.figures["drop"] <= without.figures["drop_high"]
    assert without.used == 24


def test_what_the_scene_told_is_missed_and_what_the_action_told_is_not(tmp_path: Path) -> None:
    biased, honest = (
        next(r for r in measured(tmp_path / str(action), action, scene).results if r.is_headline)
        for action, scene in ((0.1, 1.5), (1.5, 0.1))
    )
    assert biased.figures["drop"] > 0.25
    assert biased.figures["drop_low"] > 0
    assert abs(honest.figures["drop"]) < 0.05


def test_videos_without_a_foreground_are_left_out(tmp_path: Path) -> None:
    report = measured(tmp_path, 1.0, 1.0, statuses={50: "unreadable"})
    assert {r.used for r in report.results} == {23}


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    whole, alone = features(1.0, 1.0)
    store = make_store(tmp_path, labels=LABELS, splits=SPLITS, values=whole, crops="c", feature_set=RGB)
    fill(store, crops="c", feature_set=ALONE, dim=5, values=alone[..., :5])
    with pytest.raises(ShapeMismatchError, match="12 and 5; compare two streams"):
        run(store, BIAS)
    with pytest.raises(RecipeError, match="expected features out of"):
        run(store, {**BIAS, "foreground": "x3d_xs-foregroun"})
    with pytest.raises(RecipeError, match="expected a backbone to compare"):
        run(store, {**BIAS, "backbone": None})
