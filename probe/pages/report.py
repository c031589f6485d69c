"""The report as one HTML file that works offline.

    render_report(report, frames) -> str

Everything in a report that came from outside (labels, ids, errors, recipe
text) is untrusted and escaped by the templates; see :mod:`probe.pages.page` for the
second line of defence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.look.figures import p_text, points
from probe.pages import report_view as view
from probe.pages.page import Frames, render_page
from probe.pages.strips import strip_groups
from probe.pages.training_view import training_cards
from probe.results import PairedComparison, ProbeReport, ProbeResult

HTML_FILE = "report.html"
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Line:
    """One result as the tables and cards show it."""

    r: ProbeResult
    kind: str
    setting: str
    method: str
    readout: str
    detail: str
    chance: float | None
    figure: str
    value: float
    where: str
    chosen: str
    beside: str
    """The number of the other protocol, in words."""


def render_report(report: ProbeReport, frames: Frames | None = None) -> str:
    """Return the HTML page of a report.

    Parameters
    ----------
    report : ProbeReport
    frames : callable, optional
        Row -> frames of the video as JPEG or PNG bytes, in the order of time; the middle one is shown large. An
        empty sequence, or no callable, gives a placeholder.

    Returns
    -------
    str
        A whole document with no outside reference.
    """
    headlines = [_line(r, report) for r in view.headlines(report)]
    retrieval = [_line(r, report) for r in report.results if r.said("recall")]
    curves, confusions, maps = view.curve_cards(report), view.confusions(report), view.map_cards(report)
    trainings, strips = training_cards(report), strip_groups(report, frames)
    sections = [
        ("summary", "At a glance", True),
        ("honesty", "Caveats", True),
        ("results", "Results", bool(headlines)),
        ("paired", "Comparisons", bool(report.comparisons)),
        ("curves", "Curves", bool(curves or trainings)),
        ("confusion", "Confusion", bool(confusions)),
        ("map", "Map", bool(maps)),
        ("neighbours", "Neighbours", bool(strips)),
        ("coverage", "Coverage", bool(report.coverage)),
        ("provenance", "Provenance", True),
    ]
    return render_page(
        "report.html.j2",
        title=f"{report.recipe} on {report.dataset}: probe report",
        eyebrow="Probe report",
        report=report,
        summary=view.summary(report),
        sections=[(anchor, name) for anchor, name, wanted in sections if wanted],
        cards=headlines,
        remarks=view.remarks(report),
        headline_lines=headlines,
        all_lines=[_line(r, report) for r in report.results],
        only_where=_only_source(report),
        has_map=any(r.mean_average_precision is not None for r in report.results),
        retrieval=retrieval,
        retrieval_depths=sorted({k for row in retrieval for k in row.r.said("recall")}),
        comparisons=comparison_lines(report),
        made=view.date_text(report.created),
        curves=curves,
        trainings=trainings,
        confusions=confusions,
        maps=maps,
        strips=strips,
        coverage=_coverage(report),
        examples=list(dict.fromkeys(e for c in report.coverage for e in c.examples)),
        provenance=provenance(report),
        recipe_text=_recipe_text(report.recipe_content),
    )


def _line(result: ProbeResult, report: ProbeReport) -> Line:
    figure, value = view.main_figure(result)
    several = view.has_several_sources(report)
    return Line(
        r=result,
        kind=view.METHODS.get(result.probe, result.probe),
        setting="" if result.said("k") is None or result.probe != "knn" else f"k = {result.said('k')}",
        method=view.method_text(result),
        readout=view.readout_text(result),
        detail=view.detail_text(result, with_features=several),
        chance=view.chance(result),
        figure=figure,
        value=value,
        where=f"{result.crops}/{result.feature_set}" if several else "",
        chosen=view.chosen_text(result),
        beside=view.beside_text(result, report.results) if result.is_headline else "",
    )


def _only_source(report: ProbeReport) -> str:
    if view.has_several_sources(report) or not report.results:
        return ""
    return f", from {report.results[0].crops}/{report.results[0].feature_set}"


def comparison_lines(report: ProbeReport) -> list[dict[str, Any]]:
    """Return the paired comparisons in words and formatted figures.

    The verdict holds for all of them together: p-values are compared after Holm's correction, because a table of
    twenty pairs has one below 0.05 by luck.
    """
    names = {r.id: f"{view.method_text(r)}, {view.readout_text(r)} ({r.protocol})" for r in report.results}
    adjusted = holm([pair.p_value for pair in report.comparisons])
    return [
        {
            "a": names.get(pair.a, pair.a),
            "b": names.get(pair.b, pair.b),
            "difference": f"{points(pair.difference)} points",
            "interval": f"{points(pair.interval[0])} to {points(pair.interval[1])}",
            "p": p_text(pair.p_value),
            "only_a": pair.only_a,
            "only_b": pair.only_b,
            "num_rows": pair.num_rows,
            "num_groups": pair.num_groups,
            "words": verdict(pair, p),
        }
        for pair, p in zip(report.comparisons, adjusted, strict=True)
    ]


def verdict(pair: PairedComparison, adjusted_p: float) -> str:
    """Say which is better, if that is clear."""
    if pair.p_value >= SIGNIFICANCE:
        return "no clear difference"
    better = "second" if pair.difference > 0 else "first"
    return f"the {better} is better" if adjusted_p < SIGNIFICANCE else f"perhaps the {better}; not clear among so many"


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979: step down, family-wise error rate)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = largest
    return adjusted


def _coverage(report: ProbeReport) -> list[dict[str, Any]]:
    return [
        {
            "c": c,
            "readout": view.readout_name(c.readout),
            "where": f"{c.crops}/{c.feature_set}",
            "train_reasons": view.reasons_text(c.excluded_train.items()),
            "test_reasons": view.reasons_text(c.excluded_test.items()),
        }
        for c in report.coverage
    ]


def provenance(report: ProbeReport) -> list[tuple[str, str]]:
    """Return what makes the numbers repeatable, as pairs of name and value."""
    facts: list[tuple[str, str]] = [
        ("Recipe", report.recipe),
        ("Dataset", report.dataset),
        ("Made", view.date_text(report.created)),
        ("Snapshot", report.snapshot),
        ("Fingerprint", report.fingerprint),
        ("Inputs", report.inputs),
        ("Split", ", ".join(sorted({r.split for r in report.results}))),
        ("Seed", ", ".join(str(s) for s in sorted({r.seed for r in report.results}))),
    ]
    for crops, feature_set, digest in sorted({(r.crops, r.feature_set, r.fingerprint) for r in report.results}):
        facts.append((f"Features {crops}/{feature_set}", digest))
    for name, digest in sorted({(r.embedding, r.embedding_fingerprint or "") for r in report.results if r.embedding}):
        facts.append((f"Embedding {name}", digest))
    versions = dict(report.versions)
    facts.append(("Machine", versions.pop("machine", "")))
    facts.append(("Versions", ", ".join(f"{name} {value}" for name, value in sorted(versions.items()))))
    if report.seconds:
        facts.append(("Time", f"{report.seconds:.1f} s"))
    return [(name, value) for name, value in facts if value]


def _recipe_text(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100) if content else ""
