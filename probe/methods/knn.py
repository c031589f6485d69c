"""The kNN results of one readout: the recipe's grid, SCALE's protocol beside it, and the curves."""

from __future__ import annotations

import numpy as np

from pipeline.recipe.probes import KnnProbe
from probe.data.readouts import ReadoutData
from probe.data.vectors import pool_crops
from probe.found import NeighboursFound
from probe.maths.exact_search import Neighbours, nearest
from probe.maths.knn import SCALE_K, SCALE_TEMPERATURE, KnnScores, centre, run_knn, vote_grid
from probe.maths.metrics import hits
from probe.maths.statistics import bootstrap_interval
from probe.methods.measure import Findings, Setting, classification_result
from probe.methods.overview import neighbour_strips
from probe.methods.registry import Probing, measure_probe
from probe.results import Curve

CURVE_KS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100, 200)
CROP_DRAWS = 3
"""The curve over crops averages this many random choices of crops, where a search is cheap."""
MAX_PAIRS_FOR_DRAWS = 1 << 28
PROTOCOLS = {"none": "none", "train": "strict", "per_split": "per_split"}


def measure_knn(
    spec: KnnProbe, data: ReadoutData, setting: Setting, findings: Findings
) -> tuple[Neighbours, KnnScores]:
    """Add every point of the grid, and SCALE's protocol, to the findings.

    Returns
    -------
    neighbours : Neighbours
        Of the recipe's own centring, for strips.
    point : KnnScores
        The headline's.
    """
    train, test = data.equal_say(spec.centring)
    curve_ks = [k for k in CURVE_KS if k <= max(*spec.k, SCALE_K)]
    ks = sorted({*spec.k, *curve_ks})
    neighbours = nearest(test, train, ks[-1])
    temperatures = tuple(dict.fromkeys(spec.temperatures))
    grid = {
        (point.temperature, point.k): point for point in vote_grid(neighbours, setting.train_truth, ks, temperatures)
    }
    main = (SCALE_TEMPERATURE if SCALE_TEMPERATURE in temperatures else temperatures[0],
            SCALE_K if SCALE_K in spec.k else spec.k[-1])  # fmt: skip
    for temperature in temperatures:
        for k in dict.fromkeys(spec.k):
            is_headline = (temperature, k) == main
            curves: tuple[Curve, ...] = ()
            if is_headline:
                curves = (_k_curve([grid[temperature, x] for x in curve_ks], setting, spec.seed),)
                if data.readout == "mean" and data.num_crops > 1:
                    curves += (_crop_curve(spec, data, setting, k, temperature),)
            _keep(grid[temperature, k], PROTOCOLS[spec.centring], spec, setting, findings, is_headline, curves)
    # SCALE's own protocol, and the strict one at the same k and temperature, stand side by side in every report.
    scale_train, scale_test = data.raw()
    ours, _ = run_knn(scale_train, scale_test, setting.train_truth, ks=(SCALE_K,), temperatures=(SCALE_TEMPERATURE,),
                      centring="per_split")  # fmt: skip
    _keep(ours[0], "scale", spec, setting, findings, False, ())
    has_strict = spec.centring == "train" and SCALE_K in spec.k and SCALE_TEMPERATURE in temperatures
    if not has_strict:
        gallery, queries = data.equal_say("train")
        strict = vote_grid(nearest(queries, gallery, SCALE_K), setting.train_truth, (SCALE_K,), (SCALE_TEMPERATURE,))
        _keep(strict[0], "strict", spec, setting, findings, False, ())
    return neighbours, grid[main]


def _keep(
    point: KnnScores,
    protocol: str,
    spec: KnnProbe,
    setting: Setting,
    findings: Findings,
    is_headline: bool,
    curves: tuple[Curve, ...],
) -> None:
    notes: tuple[str, ...] = setting.common.get("notes", ())
    if point.k_used < point.k:
        notes += (f"k={point.k} was asked for; the gallery has {point.k_used} videos",)
    result, hit = classification_result(
        setting,
        "knn",
        point.scores_QC,
        point.predicted_Q,
        parts=(f"k={point.k}", f"T={point.temperature:g}", protocol),
        is_headline=is_headline,
        seed=spec.seed,
        protocol=protocol,
        found=NeighboursFound(
            centring={"strict": "train", "scale": "per_split"}.get(protocol, protocol),
            k=point.k,
            k_used=point.k_used,
            temperature=point.temperature,
        ),
        curves=curves,
        notes=notes,
    )
    if all(known.id != result.id for known in findings.results):
        findings.keep(result, setting, hit, point.predicted_Q)


def _k_curve(points: list[KnnScores], setting: Setting, seed: int) -> Curve:
    return _curve("k", [p.k for p in points], [hits(p.predicted_Q, setting.test_truth) for p in points], setting, seed)


def _crop_curve(spec: KnnProbe, data: ReadoutData, setting: Setting, k: int, temperature: float) -> Curve:
    """Accuracy when only n random crops of every video (train and test) are averaged, n growing to all."""
    assert data.table is not None
    values, valid = data.table.values, data.table.valid
    counts = sorted({n for n in spec.crop_counts if n < data.num_crops} | {data.num_crops})
    if values is None:
        counts = [data.num_crops]
    used = data.used
    cheap = len(used.train) * len(used.test) <= MAX_PAIRS_FOR_DRAWS
    outcomes = []
    for count in counts:
        draws = []
        for draw in range(CROP_DRAWS if cheap and count < data.num_crops else 1):
            pooled = data.parts[0]
            if count < data.num_crops:
                assert values is not None
                pooled = pool_some(values, valid, count, seed=spec.seed + draw)
            train, test = centre(pooled[used.train], pooled[used.test], spec.centring)
            point = vote_grid(nearest(test, train, k), setting.train_truth, (k,), (temperature,))[0]
            draws.append(hits(point.predicted_Q, setting.test_truth))
        outcomes.append(np.mean(draws, axis=0))
    return _curve("crops", counts, outcomes, setting, spec.seed)


def pool_some(values_NVD: np.ndarray, valid_NV: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Return the mean (N, D) float32 of `count` random valid crops a video (all it has, if fewer).

    The choice is nested: with the same seed, more crops contain fewer.
    """
    order = np.random.default_rng(seed).random(valid_NV.shape)
    rank = np.where(valid_NV, order, 2.0).argsort(axis=1).argsort(axis=1)
    chosen = valid_NV & (rank < count)
    pooled = np.zeros((len(values_NVD), values_NVD.shape[2]), np.float32)
    for start in range(0, len(values_NVD), 1024):
        part = slice(start, start + 1024)
        pooled[part], _ = pool_crops(values_NVD[part], chosen[part])
    return pooled


def _curve(name: str, x: list[int], outcomes: list[np.ndarray], setting: Setting, seed: int) -> Curve:
    intervals = [bootstrap_interval(outcome, setting.test_groups, seed=seed) for outcome in outcomes]
    return Curve(
        name=name,
        figure="top1",
        x=tuple(float(v) for v in x),
        y=tuple(float(outcome.mean()) for outcome in outcomes),
        low=tuple(low for low, _ in intervals),
        high=tuple(high for _, high in intervals),
    )


@measure_probe.register(KnnProbe)
def _(spec: KnnProbe, probing: Probing) -> None:
    findings = probing.findings
    neighbours, point = measure_knn(spec, probing.data, probing.setting, findings)
    if probing.key not in findings.strips:
        findings.strips[probing.key] = neighbour_strips(
            probing.data, probing.setting, neighbours, point, seed=spec.seed
        )
