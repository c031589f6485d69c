"""Retrieval: test videos ask, train videos answer. Recall at k and mean average precision.

Shape legend: Q queries (test rows), N gallery rows (train), D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.recipe.probes import RetrievalProbe
from probe.data.readouts import ReadoutData
from probe.found import RetrievalFound
from probe.maths.exact_search import similarities
from probe.maths.knn import centre
from probe.maths.statistics import bootstrap_interval
from probe.methods.knn import pool_some
from probe.methods.measure import Findings, Setting, result_id
from probe.methods.registry import Probing, measure_probe
from probe.results import ProbeResult

QUERIES_PER_BLOCK = 64


@dataclass(frozen=True)
class Ranking:
    """For each query, where the relevant gallery rows stand."""

    first_Q: np.ndarray
    """Rank (from 1) of the first relevant row; 0 where none is relevant."""
    average_precision_Q: np.ndarray
    """0 where none is relevant."""


def rank_gallery(
    queries_QD: np.ndarray,
    gallery_ND: np.ndarray,
    query_truth_QC: np.ndarray,
    gallery_truth_NC: np.ndarray,
    *,
    query_groups: Sequence[str] = (),
    gallery_groups: Sequence[str] = (),
) -> Ranking:
    """Rank the whole gallery for every query.

    Parameters
    ----------
    queries_QD, gallery_ND : ndarray, float32
        Unit vectors.
    query_truth_QC, gallery_truth_NC : ndarray, bool
        A gallery row is relevant if it shares a class with the query.
    query_groups, gallery_groups : sequence of str
        If given, gallery rows of the query's own group are left out of its ranking.

    Returns
    -------
    Ranking
        Of equal similarities (6 decimals) the lower gallery row comes first.
    """
    first = np.zeros(len(queries_QD), np.int64)
    precision = np.zeros(len(queries_QD))
    gallery_group = np.asarray(gallery_groups, dtype=str)
    ranks = np.arange(1, len(gallery_ND) + 1)
    for start in range(0, len(queries_QD), QUERIES_PER_BLOCK):
        block = slice(start, start + QUERIES_PER_BLOCK)
        order = np.argsort(-similarities(queries_QD[block], gallery_ND), axis=1, kind="stable")
        relevant = query_truth_QC[block].astype(np.float32) @ gallery_truth_NC.astype(np.float32).T > 0
        for i, ranked in enumerate(order):
            if len(query_groups):
                ranked = ranked[gallery_group[ranked] != query_groups[start + i]]
            is_relevant = relevant[i, ranked]
            places = ranks[: len(ranked)][is_relevant]
            if len(places):
                first[start + i] = places[0]
                precision[start + i] = (np.arange(1, len(places) + 1) / places).mean()
    return Ranking(first, precision)


def measure_retrieval(spec: RetrievalProbe, data: ReadoutData, setting: Setting, findings: Findings) -> None:
    """Add recall at every k and mean average precision to the findings."""
    protocol: str = spec.gallery
    if spec.gallery == "mean":
        gallery, queries = data.equal_say(spec.centring)
    elif data.readout != "mean" or data.table is None or data.table.values is None:
        return  # only pooled crops have a single crop to draw
    else:
        single = pool_some(data.table.values, data.table.valid, 1, seed=spec.seed)
        gallery, queries = centre(single[data.used.train], data.parts[0][data.used.test], spec.centring)
    groups: tuple[Sequence[str], Sequence[str]] = ((), ())
    if spec.exclude_siblings:
        protocol += "-no_siblings"
        groups = (setting.test_groups, setting.train_groups)
    truth = setting.test_truth
    ranking = rank_gallery(
        queries, gallery, truth, setting.train_truth, query_groups=groups[0], gallery_groups=groups[1]
    )
    found = {k: (ranking.first_Q > 0) & (ranking.first_Q <= k) for k in sorted({1, *spec.k})}
    intervals = {k: bootstrap_interval(hit, setting.test_groups, seed=spec.seed) for k, hit in found.items()}
    excluded = sum(setting.used.coverage.excluded_test.values())
    unseen = ~(truth & setting.train_truth.any(axis=0)).any(axis=1)
    fields = {
        "num_train": len(gallery),
        **setting.common,
        "id": result_id(setting.common, "retrieval", protocol, spec.centring),
        "probe": "retrieval",
        "protocol": protocol,
        "found": RetrievalFound(
            centring=spec.centring,
            recall={k: float(hit.mean()) for k, hit in found.items()},
            recall_interval=intervals,
        ),
        "top1": float(found[1].mean()),
        "interval": intervals[1],
        "mean_average_precision": float(ranking.average_precision_Q.mean()),
        "used": len(queries),
        "excluded": excluded,
        "top1_excluded_wrong": float(found[1].sum() / (len(queries) + excluded)),
        "num_classes": truth.shape[1],
        "num_test_unseen": int(unseen.sum()),
        "is_multilabel": setting.vocabulary.is_multilabel,
        "seed": spec.seed,
        "is_headline": spec.gallery == "mean" and not spec.exclude_siblings,
    }
    result = ProbeResult.model_validate(fields)
    if all(known.id != result.id for known in findings.results):
        findings.keep(result, setting, found[1], None)


@measure_probe.register(RetrievalProbe)
def _(spec: RetrievalProbe, probing: Probing) -> None:
    measure_retrieval(spec, probing.data, probing.setting, probing.findings)
