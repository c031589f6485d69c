"""Results that should not be believed or used: below chance, or below what they were made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from probe.results import PairedComparison, ProbeResult


def doubts(results: Sequence[ProbeResult], comparisons: Iterable[PairedComparison]) -> list[str]:
    """Say which headline results lie below chance, and which learned readouts lie below the mean of the same crops.

    Parameters
    ----------
    results : sequence of ProbeResult
    comparisons : iterable of PairedComparison
    """
    headlines = {r.id: r for r in results if r.is_headline and not r.said("recall")}
    lines = [
        f"{_name(r)}: {100 * r.top1:.1f} % is below chance ({100 / r.num_classes:.1f} % of {r.num_classes} classes)"
        for r in headlines.values()
        if r.num_classes > 1 and r.interval[1] < 1 / r.num_classes
    ]
    for pair in comparisons:
        a, b = headlines.get(pair.a), headlines.get(pair.b)
        if a is None or b is None or (a.probe, a.crops, a.feature_set) != (b.probe, b.crops, b.feature_set):
            continue
        base, learned, sign = (a, b, 1) if a.readout == "mean" else (b, a, -1)
        low, high = sorted(sign * x for x in pair.interval)
        if base.readout == "mean" and learned.embedding and high < 0:
            lines.append(
                f"{_name(learned)} is below the mean of the same crops, which needs no training: "
                f"{100 * sign * pair.difference:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
            )
    return lines


def _name(result: ProbeResult) -> str:
    embedding = f" {result.embedding}" if result.embedding else ""
    return f"{result.probe} on {result.readout}{embedding} of {result.crops}/{result.feature_set}, split {result.split}"
