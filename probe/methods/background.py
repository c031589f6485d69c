"""Background bias: nearest neighbours among whole videos, for whole test videos and for what moves in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.errors import NoDataError, ShapeMismatchError
from pipeline.recipe.probes.background import BackgroundProbe
from probe.found import NeighboursFound
from probe.maths.exact_search import nearest, unit_vectors
from probe.maths.knn import vote_grid
from probe.maths.metrics import hits
from probe.maths.statistics import bootstrap_interval
from probe.methods.measure import classification_result
from probe.methods.registry import Probing, measure_probe


@measure_probe.register(BackgroundProbe)
def measure_background(spec: BackgroundProbe, probing: Probing) -> None:
    """Add the accuracy with and without background, and the drop between them, paired by video.

    Raises
    ------
    NoDataError
        If no test video has both.
    ShapeMismatchError
        If the two have other channels.
    """
    whole, alone, used = probing.data.parts[0], probing.others[spec.foreground], probing.data.used
    if alone.pooled.shape[1] != whole.shape[1]:
        raise ShapeMismatchError(
            f"expected the same channels in {probing.data.feature_set} and {spec.foreground}, found {whole.shape[1]} "
            f"and {alone.pooled.shape[1]}; compare two streams of one backbone"
        )
    there = np.array([not reason for reason in alone.reasons])
    setting = replace(probing.setting, used=replace(used, test=used.test[there[used.test]]))
    test, trained_too = setting.used.test, used.train[there[used.train]]
    if not len(test) or not len(trained_too):
        raise NoDataError(
            f"expected train and test videos with features {spec.crops}/{spec.foreground} beside those of "
            f"{probing.data.feature_set}, found {len(trained_too)} and {len(test)}"
        )
    centre = whole[used.train].mean(0, dtype=np.float64)
    gallery = unit_vectors((whole[used.train] - centre).astype(np.float32))
    # Each way of showing a video has a mean of its own: what grey surfaces do to all of them alike is no bias.
    queries = {
        "whole": (whole[test] - centre).astype(np.float32),
        "foreground": (alone.pooled[test] - alone.pooled[trained_too].mean(0, dtype=np.float64)).astype(np.float32),
    }
    points = {
        name: vote_grid(nearest(unit_vectors(x), gallery, spec.k), setting.train_truth, (spec.k,), (spec.temperature,))[
            0
        ]
        for name, x in queries.items()
    }
    right = {name: hits(point.predicted_Q, setting.test_truth).astype(float) for name, point in points.items()}
    drop = right["whole"] - right["foreground"]
    low, high = bootstrap_interval(drop, setting.test_groups, seed=spec.seed)
    figures = {"whole": float(right["whole"].mean()), "drop": float(drop.mean()), "drop_low": low, "drop_high": high}
    for name, point in points.items():
        result, hit = classification_result(
            setting,
            "background",
            point.scores_QC,
            point.predicted_Q,
            parts=(spec.foreground, name),
            is_headline=name == "foreground",
            seed=spec.seed,
            protocol=name,
            found=NeighboursFound(centring="train", k=spec.k, k_used=point.k_used, temperature=spec.temperature),
            figures=figures if name == "foreground" else {},
        )
        probing.findings.keep(result, setting, hit, point.predicted_Q)
