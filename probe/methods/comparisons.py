"""Which results are compared in pairs, and how two runs stand side by side."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from probe.maths.statistics import compare_paired
from probe.results import PairedComparison, ProbeResult

MAX_COMPARISONS = 60


def compare_results(
    results: Sequence[ProbeResult], hits: Mapping[str, Mapping[int, bool]], groups: Sequence[str], *, seed: int = 0
) -> tuple[PairedComparison, ...]:
    """Compare headline results of the same probe and split pairwise, on the test rows that both used.

    Parameters
    ----------
    results : sequence of ProbeResult
    hits : mapping
        Result id -> row (or another key of `groups`) -> hit.
    groups : sequence or mapping of str
        Group of each row.
    """
    found: list[PairedComparison] = []
    headlines = [result for result in results if result.is_headline and result.id in hits]
    for a, b in itertools.combinations(headlines, 2):
        if (a.probe, a.split) == (b.probe, b.split) and len(found) < MAX_COMPARISONS:
            found.append(compare_hits(a.id, hits[a.id], b.id, hits[b.id], groups, seed=seed))
    return tuple(found)


def compare_hits(
    a: str, hits_a: Mapping[int, bool], b: str, hits_b: Mapping[int, bool], groups: Sequence[str], *, seed: int = 0
) -> PairedComparison:
    """Compare two results on the rows that both used."""
    rows = sorted(hits_a.keys() & hits_b.keys())
    values_a = np.array([hits_a[row] for row in rows], bool)
    values_b = np.array([hits_b[row] for row in rows], bool)
    paired = compare_paired(values_a, values_b, [groups[row] for row in rows], seed=seed)
    return PairedComparison(
        a=a,
        b=b,
        num_rows=len(rows),
        num_groups=paired.num_groups,
        difference=paired.difference,
        interval=paired.interval,
        p_value=paired.p_value,
        only_a=int((values_a & ~values_b).sum()),
        only_b=int((values_b & ~values_a).sum()),
    )
