"""The reports of a grid in one table: repetitions averaged, every point paired with the first and with the mean.

A test video counts once a split: what several seeds say of it is averaged first, so that seeds make a number surer and
do not pass for more videos.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.look.figures import p_text, points
from probe.maths.statistics import Paired, bootstrap_interval, compare_paired
from probe.pages.compare import Run, outcomes
from probe.pages.page import render_page
from probe.pages.report_view import readout_name
from probe.pages.words import METHODS
from probe.results import ProbeResult

USUAL_PROTOCOLS = ("strict", "selected", "mean", "pairs", "same_class")
"""Not named: each probe's own."""
Unit = tuple[str, str]
"""Split and video."""


@dataclass(frozen=True)
class Trial:
    """One point of a grid and its report.

    Attributes
    ----------
    choice, repeat : mapping
        Field -> value: of what is compared, and of what is averaged over.
    run : Run
    embeddings : mapping
        Name of an embedding set -> the name by which points are matched.
    """

    choice: Mapping[str, Any]
    repeat: Mapping[str, Any]
    run: Run
    embeddings: Mapping[str, str]


@dataclass(frozen=True)
class Failure:
    """A point that ended without a report."""

    point: Mapping[str, Any]
    error: str


@dataclass(frozen=True)
class Line:
    """One probe and readout at one point, over all its repetitions."""

    choice: Mapping[str, Any]
    measured: str
    num_runs: int
    top1: float
    interval: tuple[float, float] | None
    num_videos: int
    num_groups: int
    to_first: Paired | None
    """To the grid's first point."""
    to_mean: Paired | None
    """To the mean of the same crops, at this point."""
    reports: tuple[str, ...]


@dataclass(frozen=True)
class Sweep:
    """Everything that `scale sweep` shows."""

    lines: tuple[Line, ...]
    failures: tuple[Failure, ...] = ()

    def table(self) -> list[dict[str, object]]:
        """Return the lines as they are printed."""
        return [
            {
                **{field: _shown(value) for field, value in line.choice.items()},
                "probe": line.measured,
                "top-1 %": f"{100 * line.top1:.1f}{_range(line.interval)}",
                "to the first point": _difference(line.to_first),
                "to the mean": _difference(line.to_mean),
                "runs": line.num_runs,
                "videos": line.num_videos,
            }
            for line in self.lines
        ]

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        lines = [
            {
                "point": dict(line.choice),
                "measured": line.measured,
                "runs": line.num_runs,
                "top1": line.top1,
                "interval": line.interval,
                "videos": line.num_videos,
                "groups": line.num_groups,
                "to_first": None if line.to_first is None else vars(line.to_first),
                "to_mean": None if line.to_mean is None else vars(line.to_mean),
                "reports": list(line.reports),
            }
            for line in self.lines
        ]
        return {"rows": lines, "failures": [{"point": dict(f.point), "error": f.error} for f in self.failures]}


def sweep_table(trials: Sequence[Trial], failures: Sequence[Failure] = (), *, headline_only: bool = True) -> Sweep:
    """Put the numbers of many reports side by side.

    Parameters
    ----------
    trials : sequence of Trial
        The first one's point is what others are compared with.
    failures : sequence of Failure
    headline_only : bool
        Leave out every number but one a probe and readout.
    """
    by_choice: dict[str, list[Trial]] = {}
    for trial in trials:
        by_choice.setdefault(repr(sorted(trial.choice.items())), []).append(trial)
    pooled = {choice: _pool(of_choice, headline_only) for choice, of_choice in by_choice.items()}
    first = next(iter(pooled.values()), {})
    lines = []
    for choice, measured in pooled.items():
        for what, found in measured.items():
            hits = found.hits
            values, groups = _aligned(hits, hits)[1:]
            plain = measured.get(what.with_readout("mean"))
            lines.append(
                Line(
                    choice=by_choice[choice][0].choice,
                    measured=what.words,
                    num_runs=len(found.reports),
                    top1=float(values.mean()) if len(values) else float(np.mean(found.top1)),
                    interval=bootstrap_interval(values, groups) if len(values) else None,
                    num_videos=len(values) or found.used,
                    num_groups=len(set(groups)),
                    to_first=None if measured is first else _paired(first.get(what), found),
                    to_mean=None if plain is found else _paired(plain, found),
                    reports=tuple(dict.fromkeys(found.reports)),
                )
            )
    return Sweep(tuple(lines), tuple(failures))


@dataclass(frozen=True)
class _Measured:
    """What a headline number measures, whatever the split, the seed and the point."""

    probe: str
    crops: str
    feature_set: str
    readout: str
    embedding: str | None
    detail: str

    def with_readout(self, readout: str) -> _Measured:
        return replace(self, readout=readout, embedding=None)

    @property
    def words(self) -> str:
        """For people."""
        readout = readout_name(self.readout, self.embedding)
        method = METHODS.get(self.probe, self.probe)
        return f"{', '.join(filter(None, (method, self.detail)))}, {self.crops}/{self.feature_set}, {readout}"


def _detail(r: ProbeResult) -> str:
    """Say what else tells results of one probe and readout apart, seeds aside."""
    parts = [] if r.protocol in USUAL_PROTOCOLS else [r.protocol]
    if r.probe == "knn":
        parts.append(f"k = {r.said('k')}, T = {r.said('temperature'):g}")
    per_class, fraction = r.said("n_per_class"), r.said("fraction")
    if per_class is not None:
        parts.append(f"{per_class} labels per class")
    elif fraction < 1:
        parts.append(f"{fraction * 100:g} % of the labels")
    return ", ".join(parts)


class _Pool:
    """One measured thing over the repetitions of a point."""

    def __init__(self) -> None:
        self.reports: list[str] = []
        self.top1: list[float] = []
        self.used = 0
        self._of_unit: dict[Unit, list[bool]] = {}
        self._groups: dict[Unit, str] = {}

    def add(self, name: str, result: ProbeResult, found: Mapping[str, tuple[bool, tuple[str, str]]]) -> None:
        self.reports.append(name)
        self.top1.append(result.top1)
        self.used = max(self.used, result.used)
        for video, (correct, (_, group)) in found.items():
            self._of_unit.setdefault((result.split, video), []).append(correct)
            self._groups[result.split, video] = group

    @property
    def hits(self) -> dict[Unit, tuple[float, str]]:
        """Unit -> mean over its repetitions, and its group."""
        return {unit: (float(np.mean(hits)), self._groups[unit]) for unit, hits in self._of_unit.items()}


def _pool(trials: Iterable[Trial], headline_only: bool) -> dict[_Measured, _Pool]:
    pools: dict[_Measured, _Pool] = {}
    for trial in trials:
        run = trial.run
        for result in run.report.results:
            if headline_only and not result.is_headline:
                continue
            embedding = trial.embeddings.get(result.embedding or "", result.embedding)
            readout = result.readout if result.embedding is None else result.readout.partition(":")[0]
            what = _Measured(result.probe, result.crops, result.feature_set, readout, embedding, _detail(result))
            found = {} if run.predictions is None else outcomes(run.predictions, result.id)
            pools.setdefault(what, _Pool()).add(run.report.recipe, result, found)
    return pools


def _aligned(
    a: Mapping[Unit, tuple[float, str]], b: Mapping[Unit, tuple[float, str]]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    units = sorted(a.keys() & b.keys())
    sides = [np.array([of[unit][0] for unit in units], np.float64) for of in (a, b)]
    return sides[0], sides[1], [b[unit][1] for unit in units]


def _paired(base: _Pool | None, found: _Pool) -> Paired | None:
    if base is None:
        return None
    a, b, groups = _aligned(base.hits, found.hits)
    return compare_paired(a, b, groups) if len(groups) else None


def _shown(value: Any) -> object:
    return value if isinstance(value, int | float | str) else str(value)


def _range(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def _difference(paired: Paired | None) -> str:
    if paired is None:
        return ""
    low, high = paired.interval
    return f"{points(paired.difference)} ({points(low)} to {points(high)})"


def render_sweep(title: str, sweep: Sweep) -> str:
    """Return the table as one self-contained HTML page."""
    fields = list(dict.fromkeys(field for line in sweep.lines for field in line.choice))
    return render_page(
        "sweep.html.j2", title=title, eyebrow="Sweep", sweep=sweep, fields=fields, points=points, p_text=p_text
    )
