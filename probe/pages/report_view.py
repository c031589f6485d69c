"""What the report page says, as plain values: no markup here except finished charts.

Reads a frozen :class:`probe.results.ProbeReport` and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup

from pipeline.look.figures import number, percent
from pipeline.recipe.readout_words import IN_WORDS, OF_EMBEDDINGS
from probe.pages import charts
from probe.pages.words import METHODS
from probe.results import Curve, EmbeddingMap, LeakCheck, ProbeReport, ProbeResult

CURVE_TITLES = {
    "k": ("k, neighbours that vote", "log"),
    "crops": ("crops averaged per video", "linear"),
    "epoch": ("epoch", "linear"),
    "labels": ("labelled videos per class", "log"),
    "penalty": ("L2 penalty", "log"),
}
FIGURES = {
    "top1": "top\N{NON-BREAKING HYPHEN}1",
    "heldout_top1": "top\N{NON-BREAKING HYPHEN}1 on held-out train groups",
    "train_loss": "training loss",
    "mean_average_precision": "mAP",
}
MAX_TABLE_CLASSES = 30
"""Larger confusion matrices are drawn as a grid instead of a table."""
MAX_SERIES = 6
NUM_CONFUSED_PAIRS = 8


def method_text(result: ProbeResult) -> str:
    """Return the probe in words: ``Nearest neighbours, k = 20``."""
    text = METHODS.get(result.probe, result.probe)
    k = result.said("k")
    return f"{text}, k = {k}" if k is not None and result.probe == "knn" else text


def readout_name(readout: str, embedding: str | None = None) -> str:
    """Return a readout in words; ``cls:other`` and an embedding that is not called `scale` name the embedding."""
    kind, _, suffix = readout.partition(":")
    name = suffix or embedding or ""
    text = IN_WORDS.get(kind, kind)
    return f"{text} {name}" if name and name != "scale" and kind in OF_EMBEDDINGS else text


def readout_text(result: ProbeResult) -> str:
    """Return what was classified, in words."""
    return readout_name(result.readout, result.embedding)


def detail_text(result: ProbeResult, *, with_features: bool = True) -> str:
    """Return what else tells this number from its neighbours."""
    temperature, fraction, per_class = (result.said(name) for name in ("temperature", "fraction", "n_per_class"))
    parts = [] if temperature is None else [f"T = {temperature:g}"]
    parts.append(f"protocol {result.protocol}")
    if per_class is not None:
        parts.append(f"{per_class} labels per class")
    elif fraction < 1:
        parts.append(f"{fraction * 100:g} % of the labels")
    if with_features:
        parts.append(f"{result.crops}/{result.feature_set}")
    k, k_used = result.said("k"), result.said("k_used")
    if k_used is not None and k is not None and k_used < k:
        parts.append(f"only {k_used} neighbours exist")
    return " · ".join(parts)


def beside_text(result: ProbeResult, results: Sequence[ProbeResult]) -> str:
    """Return the same measurement by the other protocol: SCALE's for the neighbours, the last epoch for classifiers."""
    other = {"strict": "scale", "selected": "last"}.get(result.protocol)
    same = ("probe", "split", "crops", "feature_set", "readout", "embedding", "seed")
    share = ("fraction", "n_per_class")
    for found in results:
        is_same = all(getattr(found, name) == getattr(result, name) for name in same)
        if found.protocol == other and is_same and all(found.said(name) == result.said(name) for name in share):
            what = f"SCALE's protocol, k = {found.said('k')}" if other == "scale" else "last epoch"
            return f"{what}: {percent(found.top1)}"
    return ""


def chosen_text(result: ProbeResult) -> str:
    """Return what was chosen and on what: ``learning rate 0.003, epoch 12 of 60; 5 folds ...``."""
    chosen = dict(result.said("selected"))
    epochs = chosen.pop("epochs", None)
    parts = [f"{name.replace('_', ' ')} {value:g}" if isinstance(value, (int, float)) else f"{name} {value}"
             for name, value in chosen.items()]  # fmt: skip
    if "epoch" in chosen and epochs is not None:
        parts[list(chosen).index("epoch")] += f" of {epochs}"
    return "; ".join(filter(None, (", ".join(parts), result.said("chosen_on"))))


def has_several_sources(report: ProbeReport) -> bool:
    """Whether the results read more than one crop set or feature set, so that each must name its own."""
    return len({(r.crops, r.feature_set) for r in report.results}) > 1


def main_figure(result: ProbeResult) -> tuple[str, float]:
    """Return the name and the value of the figure that a card shows."""
    if result.is_multilabel and result.mean_average_precision is not None:
        return "mean average precision", result.mean_average_precision
    return ("R@1" if result.probe == "retrieval" else FIGURES["top1"]), result.top1


def chance(result: ProbeResult) -> float | None:
    """Return the accuracy of guessing uniformly; None where labels are sets."""
    return None if result.is_multilabel or result.num_classes < 1 else 1 / result.num_classes


def class_prior(result: ProbeResult) -> float | None:
    """Return the accuracy of always saying the train side's most frequent class; None where it is not known."""
    classes = result.per_class
    num_test = sum(c.num_test for c in classes)
    if result.is_multilabel or not num_test:
        return None
    return max(classes, key=lambda c: c.num_train).num_test / num_test


def headlines(report: ProbeReport) -> list[ProbeResult]:
    """Return the results that carry the details, or the first ones where none is marked."""
    return [r for r in report.results if r.is_headline] or list(report.results[:4])


def summary(report: ProbeReport) -> str:
    """Return the first thing a reader should know, in one or two sentences.

    The first headline result is named, not the best one: picking by the test
    accuracy would be choosing on test.
    """
    if not report.results:
        return "No probe has produced a number: see the coverage and the notes below."
    first = headlines(report)[0]
    figure, value = main_figure(first)
    low, high = first.interval
    text = (
        f"{method_text(first)} on the {readout_text(first)}: {percent(value)} {figure} "
        f"(95 % interval {low * 100:.1f} to {high * 100:.1f}), {first.used} test videos"
    )
    guess = chance(first)
    if guess is not None:
        text += f" of {first.num_classes} classes, chance {percent(guess)}"
        prior = class_prior(first)
        if prior is not None and prior > guess + 0.01:
            text += f", always the most frequent class {percent(prior)}"
    rest = f"{first.excluded} test videos could not be used" if first.excluded else "no test video was left out"
    return f"{text}. Trained on {first.num_train} videos; {rest}."


@dataclass(frozen=True)
class Remark:
    """One line of the honest notes."""

    level: str
    """good, warn or bad; the badge says it in words too."""
    badge: str
    text: str


def remarks(report: ProbeReport) -> list[Remark]:
    """Return everything that a reader has to know before believing a number, worst first."""
    # The leak check has a line of its own below, whatever it found.
    leaks = tuple(f"{leak.crops}/{leak.feature_set}, split {leak.split}:" for leak in report.leaks)
    said = [text for text in report.warnings if not text.startswith(leaks or "\0")]
    found = [Remark("bad", "Doubt", text) for text in said if text in report.doubts]
    found += [Remark("warn", "Caution", text) for text in said if text not in report.doubts]
    found += [Remark("bad", "Chosen on test", text) for text in report.chosen_on_test]
    seen = set(report.warnings)
    for result in report.results:
        for note in result.notes:
            if note not in seen:
                seen.add(note)
                found.append(Remark("warn", "Note", note))
    if not report.chosen_on_test:
        found.append(Remark("good", "Clean", "Nothing was chosen on test videos."))
    found += [_leak_remark(leak) for leak in report.leaks]
    excluded = sum(sum(c.excluded_test.values()) for c in report.coverage[:1])
    if report.coverage and excluded == 0:
        found.append(Remark("good", "Complete", "Every test video of the split was used."))
    elif excluded:
        text = f"{excluded} test videos were left out of the first readout; counted as wrong beside each number."
        found.append(Remark("warn", "Coverage", text))
    return found


def _leak_remark(leak: LeakCheck) -> Remark:
    where = f"{leak.crops}/{leak.feature_set}, split {leak.split}"
    if leak.num_near or leak.num_same_file:
        text = (
            f"{leak.num_near} of {leak.num_test} test videos resemble a train video (cosine of at least "
            f"{leak.threshold:g} in {where}), {leak.num_same_file} are the same file; they were {leak.action}."
        )
        badge, level = "Leak", "bad"
    else:
        text = (
            f"No near-duplicate between train and test in {where}: the highest cosine is {leak.max_similarity:.3f}, "
            f"{leak.threshold:g} would count; no file stands on both sides."
        )
        badge, level = ("Shared groups", "warn") if leak.num_shared_groups else ("No leak", "good")
    if leak.num_shared_groups:
        count = "One group of videos has" if leak.num_shared_groups == 1 else f"{leak.num_shared_groups} groups have"
        text += f" {count} videos on both sides of the split."
    return Remark(level, badge, text)


@dataclass(frozen=True)
class ChartCard:
    """A chart, its legend and its numbers."""

    title: str
    svg: Markup
    legend: tuple[str, ...]
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def curve_cards(report: ProbeReport) -> list[ChartCard]:
    """Return one chart per (probe, quantity, figure), the readouts as its lines."""
    groups: dict[tuple[str, str, str, str, str], list[tuple[str, Curve, ProbeResult]]] = {}
    for result in report.results:
        for curve in result.curves:
            where = (result.probe, curve.name, curve.figure, result.crops, result.feature_set)
            groups.setdefault(where, []).append((readout_text(result), curve, result))
    cards = []
    several = len({w[3:] for w in groups}) > 1
    for (probe, name, figure, crops, feature_set), members in groups.items():
        for start in range(0, len(members), MAX_SERIES):
            part = members[start : start + MAX_SERIES]
            title = f"{METHODS.get(probe, probe)}: {FIGURES.get(figure, figure)} by {_quantity(name)}"
            cards.append(_curve_card(f"{title}, {crops}/{feature_set}" if several else title, name, figure, part))
    return cards


def _quantity(name: str) -> str:
    return {"crops": "number of crops", "labels": "number of labels"}.get(name, name)


def _curve_card(title: str, name: str, figure: str, members: Sequence[tuple[str, Curve, ProbeResult]]) -> ChartCard:
    names = _distinct([label for label, _, _ in members], [result.protocol for _, _, result in members])
    series = [
        charts.Series(label, curve.x, curve.y, curve.low, curve.high)
        for label, (_, curve, _) in zip(names, members, strict=True)
    ]
    x_label, scale = CURVE_TITLES[name]
    is_share = figure != "train_loss"
    guess = chance(members[0][2]) if figure in ("top1", "heldout_top1") else None
    ends = "; ".join(f"{s.label} from {_value(s.y[0], is_share)} to {_value(s.y[-1], is_share)}" for s in series if s.y)
    svg = charts.line_chart(
        series,
        label=f"Line chart. {title}: {ends}. The table below it holds all numbers.",
        x_label=x_label,
        y_label=FIGURES.get(figure, figure),
        x_scale="log" if scale == "log" else "linear",
        percent=is_share,
        reference=None if guess is None else (guess, "chance"),
    )
    cells = tuple(
        (s.label, number(float(x)), _value(y, is_share), _range(s, i, is_share))
        for s in series
        for i, (x, y) in enumerate(zip(s.x, s.y, strict=True))
    )
    return ChartCard(
        title, svg, tuple(names), ("Readout", x_label, FIGURES.get(figure, figure), "95 % interval"), cells
    )


def _distinct(labels: Sequence[str], extra: Sequence[str]) -> list[str]:
    return [
        label if list(labels).count(label) == 1 else f"{label}, {more}"
        for label, more in zip(labels, extra, strict=True)
    ]


def _value(value: float, is_share: bool) -> str:
    return percent(value) if is_share else f"{value:.4g}"


def _range(series: charts.Series, i: int, is_share: bool) -> str:
    if not series.low or not series.high:
        return "–"
    return f"{_value(series.low[i], is_share)} to {_value(series.high[i], is_share)}"


@dataclass(frozen=True)
class Confusion:
    """One confusion matrix, ready to be written as a table or drawn."""

    title: str
    names: tuple[str, ...]
    lines: tuple[tuple[str, tuple[tuple[int, int, bool], ...], str], ...]
    """(true label, ((count, heat level, is diagonal), ...), right of total); empty where it is drawn."""
    svg: Markup | None
    pairs: tuple[tuple[str, str, int, int], ...]
    """The most frequent mistakes: true, predicted, count, of how many."""


def confusions(report: ProbeReport) -> list[Confusion]:
    """Return the confusion matrices of the headline results."""
    found = []
    for result in report.results:
        counts = result.confusion
        if counts is None or not any(map(any, counts)):
            continue
        names = _class_names(report, len(counts))
        title = f"{method_text(result)}, {readout_text(result)}: {percent(result.top1)} {FIGURES['top1']}"
        is_table = len(names) <= MAX_TABLE_CLASSES
        rows = tuple(_confusion_row(names[i], row, i) for i, row in enumerate(counts)) if is_table else ()
        svg = None
        if not is_table:
            svg = charts.heat_grid(counts, names, label=f"Confusion matrix of {len(names)} classes. {title}.")
        found.append(Confusion(title, names, rows, svg, _confused_pairs(counts, names)))
    return found


def _class_names(report: ProbeReport, count: int) -> tuple[str, ...]:
    if len(report.classes) == count:
        return report.classes
    return tuple(f"class {i}" for i in range(count))


def _confusion_row(name: str, row: Sequence[int], i: int) -> tuple[str, tuple[tuple[int, int, bool], ...], str]:
    total = sum(row)
    cells = tuple((n, charts.heat_level(n / total if total else 0), i == j) for j, n in enumerate(row))
    return name, cells, f"{row[i]} of {total}" if total else "no test video"


def _confused_pairs(counts: Sequence[Sequence[int]], names: Sequence[str]) -> tuple[tuple[str, str, int, int], ...]:
    wrong = [
        (names[i], names[j], n, sum(row)) for i, row in enumerate(counts) for j, n in enumerate(row) if n and i != j
    ]
    return tuple(sorted(wrong, key=lambda w: (-w[2], w[0], w[1]))[:NUM_CONFUSED_PAIRS])


@dataclass(frozen=True)
class MapCard:
    """A two-dimensional map of the videos, with its legend."""

    title: str
    note: str
    svg: Markup
    legend: tuple[tuple[int, str, int], ...]
    """(class index, label, number of videos)."""


def map_cards(report: ProbeReport) -> list[MapCard]:
    """Return the maps, one a readout."""
    return [_map_card(m, report) for m in report.maps if m.points]


def _map_card(m: EmbeddingMap, report: ProbeReport) -> MapCard:
    labels = sorted({p.label for p in m.points})
    index = {label: i for i, label in enumerate(labels)}
    points = [
        charts.Point(p.x, p.y, index[p.label], p.side == "test", f"{p.label} · {p.side} · {p.video_id}")
        for p in m.points
    ]
    first, second = m.explained
    readout = readout_name(m.readout)
    svg = charts.scatter_map(
        points,
        label=f"Map of {len(points)} videos of {len(labels)} classes, {readout} of {m.crops}/{m.feature_set}, on the "
        f"first two principal components, which hold {percent(first + second)} of the variance.",
        x_label=f"component 1 ({percent(first)})",
        y_label=f"component 2 ({percent(second)})",
    )
    counts = tuple((index[label], label, sum(p.label == label for p in m.points)) for label in labels)
    note = (
        f"{m.crops}/{m.feature_set}. Filled marks are test videos, hollow ones train videos. The two axes hold "
        f"{percent(first + second)} of the variance, so classes that overlap here may still be apart."
    )
    return MapCard(readout[:1].upper() + readout[1:], note, svg, counts)


def date_text(created: str) -> str:
    """Write an ISO time for people: ``21 November 2026, 01:34 UTC``; anything else as it is."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    zone = " UTC" if moment.utcoffset() == timedelta(0) else ""
    return f"{moment.day} {moment:%B %Y, %H:%M}{zone}"


def reasons_text(reasons: Iterable[tuple[str, int]]) -> str:
    """Write ``3 unreadable, 1 no label``, or a dash."""
    return ", ".join(f"{count} {reason}" for reason, count in reasons if count) or "–"
