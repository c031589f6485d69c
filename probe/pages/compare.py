"""Two runs side by side: what they share, how their numbers differ, and whether the difference is more than luck.

compare_runs(load_run("A/report.json"), load_run("B/report.json")) -> Comparison
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from pipeline.errors import CorruptDataError, FormatError, NotFoundError
from pipeline.fingerprint import differing_fields
from pipeline.look.figures import p_text, points
from pipeline.look.tables import column_lines
from pipeline.names import did_you_mean
from pipeline.storage.parquet import read_parquet
from pipeline.store.artifacts import split_version
from pipeline.store.descriptions import stored_name
from probe.maths.statistics import compare_paired
from probe.pages.page import render_page
from probe.pages.report_view import FIGURES, date_text, main_figure, percent, readout_text
from probe.pages.words import METHODS
from probe.results import PREDICTIONS_FILE, REPORT_FILE, ProbeReport, ProbeResult

if TYPE_CHECKING:
    from pipeline import FeatureStore

SIGNIFICANCE = 0.05
PREDICTION_COLUMNS = ("result", "video_id", "group", "labels", "correct")


@dataclass(frozen=True)
class Run:
    """A report and, where they were stored, its predictions."""

    name: str
    report: ProbeReport
    predictions: pa.Table | None = None


@dataclass(frozen=True)
class Pair:
    """One number of both runs."""

    name: str
    a: ProbeResult | None
    b: ProbeResult | None
    figure: str = ""
    difference: float | None = None
    """B minus A, share. On the videos both used where `num_rows` is given."""
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    num_rows: int | None = None
    num_groups: int | None = None
    words: str = ""
    """The verdict, or why there is none."""


@dataclass(frozen=True)
class Comparison:
    """Everything that `scale compare` shows."""

    a: Run
    b: Run
    pairs: tuple[Pair, ...]
    differences: tuple[tuple[str, str, str], ...]
    """(what, in A, in B): recipe keys, versions, snapshot."""
    remarks: tuple[str, ...]

    def text(self) -> str:
        """Return the comparison as a table for a terminal."""
        header = ("", "A", "B", "B - A", "95 % interval", "p", "")
        lines = [
            (
                pair.name,
                _figure_text(pair.a),
                _figure_text(pair.b),
                points(pair.difference),
                "" if pair.interval is None else f"{points(pair.interval[0])} to {points(pair.interval[1])}",
                "" if pair.p_value is None else p_text(pair.p_value),
                pair.words,
            )
            for pair in self.pairs
        ]
        table = column_lines(header, lines)
        head = [f"A: {_describe(self.a)}", f"B: {_describe(self.b)}", ""]
        if self.remarks:
            table += ["", *(f"note: {remark}" for remark in self.remarks)]
        if self.differences:
            table += ["", "differs in:", *(f"  {what}: {left} -> {right}" for what, left, right in self.differences)]
        return "\n".join([*head, *table])

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as JSON-ready values."""
        return {
            "a": self.a.name,
            "b": self.b.name,
            "pairs": [
                {
                    "name": pair.name,
                    "figure": pair.figure,
                    "a": None if pair.a is None else main_figure(pair.a)[1],
                    "b": None if pair.b is None else main_figure(pair.b)[1],
                    "difference": pair.difference,
                    "interval": pair.interval,
                    "p_value": pair.p_value,
                    "num_rows": pair.num_rows,
                    "num_groups": pair.num_groups,
                    "words": pair.words,
                }
                for pair in self.pairs
            ],
            "differences": [list(row) for row in self.differences],
            "remarks": list(self.remarks),
        }


def load_run(path: str | Path) -> Run:
    """Read a run from ``report.json``, or from the folder that holds it.

    Raises
    ------
    NotFoundError
        If there is no such file.
    FormatError
        If it is not a report of this version.
    """
    path = Path(path)
    if not path.exists():
        raise NotFoundError(f"expected a report at {path}, found no such file; give a report's page, JSON or folder")
    folder = path if path.is_dir() else path.parent
    of_version = _files_of_version(folder, path)
    report = of_version.get(REPORT_FILE, folder / REPORT_FILE if path.is_dir() or path.suffix == ".html" else path)
    if not report.is_file():
        raise NotFoundError(f"expected a report at {report}, found no such file; give a report.json, or its folder")
    predictions = of_version.get(PREDICTIONS_FILE, folder / PREDICTIONS_FILE)
    return _run(str(path), report.read_bytes(), predictions.read_bytes() if predictions.is_file() else None)


def _files_of_version(folder: Path, path: Path) -> dict[str, Path]:
    """Find the files that a store keeps together under names with their hash: those beside `path`, else the newest."""
    for described in sorted(folder.glob("meta*.json"), key=lambda p: p.name != "meta.json"):
        try:
            hashes = json.loads(described.read_bytes())["files"]
            files = {name: folder / stored_name(name, str(digest)) for name, digest in hashes.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if path == folder or path in files.values():
            return files
    return {}


def load_stored_run(store: FeatureStore, dataset: str, name: str) -> Run:
    """Read a run from the store's ``reports/<name>``.

    Raises
    ------
    NotFoundError
        If there is no such report; names those that exist.
    FormatError
        If it is not a report of this version.
    """
    ds = store.dataset(dataset)
    if split_version(name)[0] not in ds.artifacts("reports"):
        raise NotFoundError(
            f"expected a report {name!r} in dataset {dataset}, found {sorted(ds.artifacts('reports')) or 'none'}"
            f"{did_you_mean(name, ds.artifacts('reports'))}"
        )
    artifact = ds.artifact("reports", name)
    try:
        predictions: bytes | None = artifact.read(PREDICTIONS_FILE)
    except NotFoundError:
        predictions = None
    return _run(f"{dataset}/{name}", artifact.read(REPORT_FILE), predictions)


def _run(name: str, report: bytes, predictions: bytes | None) -> Run:
    try:
        parsed = ProbeReport.model_validate(json.loads(report))
    except (ValidationError, ValueError) as err:
        raise FormatError(f"expected a probe report of this version in {name}, found something else: {err}") from err
    if predictions is None:
        return Run(name, parsed)
    try:
        table = read_parquet(predictions)
    except pa.ArrowException as err:
        raise CorruptDataError(
            f"expected Parquet in {PREDICTIONS_FILE} of {name}, found something else: {err}"
        ) from err
    missing = sorted(set(PREDICTION_COLUMNS) - set(table.column_names))
    if missing:
        raise FormatError(
            f"expected the columns {', '.join(PREDICTION_COLUMNS)} in {PREDICTIONS_FILE} of {name}, "
            f"found none called {', '.join(missing)}; run the probe again"
        )
    return Run(name, parsed, table)


def compare_runs(a: Run, b: Run, *, headline_only: bool = True) -> Comparison:
    """Put two runs side by side, row by row where both stored their predictions.

    Parameters
    ----------
    a, b : Run
    headline_only : bool
        Leave out numbers that are not a headline in either run.

    Returns
    -------
    Comparison
        Results are matched by their id; where the feature set has another name in the other run, by everything
        else, as long as that is unambiguous.
    """
    pairs = []
    for left, right in match_results(a.report.results, b.report.results):
        if headline_only and not any(r is not None and r.is_headline for r in (left, right)):
            continue
        pairs.append(_pair(left, right, a, b))
    return Comparison(a, b, tuple(pairs), tuple(_differences(a.report, b.report)), tuple(_remarks(a, b)))


def match_results(
    a: Sequence[ProbeResult], b: Sequence[ProbeResult]
) -> list[tuple[ProbeResult | None, ProbeResult | None]]:
    """Pair results: first by id, then by everything but the names of crop set, feature set and embedding."""
    by_id = {r.id: r for r in b}
    matched: dict[str, ProbeResult] = {r.id: by_id[r.id] for r in a if r.id in by_id}
    taken = {r.id for r in matched.values()}
    rest_a = [r for r in a if r.id not in matched]
    rest_b = [r for r in b if r.id not in taken]
    roles_a, roles_b = Counter(map(_role, rest_a)), Counter(map(_role, rest_b))
    by_role = {_role(r): r for r in rest_b}
    for r in rest_a:
        role = _role(r)
        if roles_a[role] == roles_b[role] == 1:
            matched[r.id] = by_role[role]
            taken.add(by_role[role].id)
    pairs: list[tuple[ProbeResult | None, ProbeResult | None]] = [(r, matched.get(r.id)) for r in a]
    return pairs + [(None, r) for r in b if r.id not in taken]


def _role(r: ProbeResult) -> tuple[object, ...]:
    setting = (r.said("k"), r.said("temperature"), r.said("fraction"), r.said("n_per_class"))
    return (r.probe, r.dataset, r.split, r.readout, r.protocol, *setting, r.seed)


def _pair(left: ProbeResult | None, right: ProbeResult | None, a: Run, b: Run) -> Pair:
    either = left or right
    assert either is not None
    name = _name(either)
    if left is None or right is None:
        return Pair(name, left, right, words=f"only in {'A' if right is None else 'B'}")
    figure, value_a = main_figure(left)
    _, value_b = main_figure(right)
    plain = Pair(name, left, right, figure, value_b - value_a)
    if left.id == right.id and left.snapshot == right.snapshot and left == right:
        return Pair(name, left, right, figure, 0.0, words="the same number of the same run")
    rows, why = _common_rows(left, right, a, b)
    if rows is None:
        return Pair(**{**plain.__dict__, "words": why})
    correct_a, correct_b, groups = rows
    found = compare_paired(correct_a, correct_b, groups)
    if found.p_value >= SIGNIFICANCE:
        words = "no clear difference"
    else:
        words = "B is better" if found.difference > 0 else "A is better"
    return Pair(
        name,
        left,
        right,
        FIGURES["top1"],
        found.difference,
        found.interval,
        found.p_value,
        len(groups),
        found.num_groups,
        words,
    )


def _common_rows(
    left: ProbeResult, right: ProbeResult, a: Run, b: Run
) -> tuple[tuple[np.ndarray, np.ndarray, list[str]] | None, str]:
    if a.predictions is None or b.predictions is None:
        missing = " and ".join(n for n, run in (("A", a), ("B", b)) if run.predictions is None)
        return None, f"not paired: {missing} stored no predictions"
    of_a, of_b = outcomes(a.predictions, left.id), outcomes(b.predictions, right.id)
    common = sorted(of_a.keys() & of_b.keys())
    if not common:
        return None, "not paired: no test video in common"
    differing = [v for v in common if of_a[v][1] != of_b[v][1]]
    if differing:
        return None, f"not paired: {len(differing)} videos carry another label or group, such as {differing[0]}"
    sides = [np.array([of[v][0] for v in common], np.float64) for of in (of_a, of_b)]
    return (sides[0], sides[1], [of_a[v][1][1] for v in common]), ""


def outcomes(predictions: pa.Table, result_id: str) -> dict[str, tuple[bool, tuple[str, str]]]:
    """Return video id -> (correct, (label, group)) of one result."""
    chosen = predictions.filter(pa.compute.equal(predictions["result"].cast(pa.string()), result_id))
    columns = [chosen[name].to_pylist() for name in ("video_id", "correct", "labels", "group")]
    return {
        video: (bool(correct), (", ".join(labels or ()), video if group is None else str(group)))
        for video, correct, labels, group in zip(*columns, strict=True)
        if correct is not None
    }


def _name(r: ProbeResult) -> str:
    parts = [METHODS.get(r.probe, r.probe)]
    if r.probe == "knn" and r.said("k") is not None:
        parts.append(f"k = {r.said('k')}")
    parts.append(readout_text(r))
    fraction, per_class = r.said("fraction"), r.said("n_per_class")
    if per_class is not None or fraction < 1:
        parts.append(f"{per_class} per class" if per_class is not None else f"{fraction * 100:g} % of labels")
    return f"{', '.join(parts)} ({r.protocol})"


def _figure_text(r: ProbeResult | None) -> str:
    if r is None:
        return "-"
    low, high = r.interval
    return f"{percent(main_figure(r)[1])} [{low * 100:.1f}, {high * 100:.1f}] n={r.used}"


def _describe(run: Run) -> str:
    report = run.report
    made = f", made {date_text(report.created)}" if report.created else ""
    return f"{run.name} (recipe {report.recipe}, dataset {report.dataset}, snapshot {report.snapshot[:12]}{made})"


def _differences(a: ProbeReport, b: ProbeReport) -> list[tuple[str, str, str]]:
    facts_a: Mapping[str, Any] = {"recipe": a.recipe_content, "version": a.versions, "snapshot": a.snapshot[:12]}
    facts_b: Mapping[str, Any] = {"recipe": b.recipe_content, "version": b.versions, "snapshot": b.snapshot[:12]}
    found = differing_fields(facts_a, facts_b)
    return [(what, _shown(x), _shown(y)) for what, (x, y) in found.items()]


def _shown(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _remarks(a: Run, b: Run) -> list[str]:
    found = []
    if a.report.dataset != b.report.dataset:
        found.append(f"different datasets: {a.report.dataset} and {b.report.dataset}")
    splits = [sorted({r.split for r in run.report.results}) for run in (a, b)]
    if splits[0] != splits[1]:
        found.append(f"different splits: {splits[0]} and {splits[1]}")
    of_a, of_b = ([*run.report.warnings, *run.report.chosen_on_test] for run in (a, b))
    found += [f"A and B: {text}" for text in of_a if text in of_b]
    found += [f"A: {text}" for text in of_a if text not in of_b]
    found += [f"B: {text}" for text in of_b if text not in of_a]
    return found


def render_comparison(comparison: Comparison) -> str:
    """Return the comparison as one self-contained HTML page."""
    return render_page(
        "compare.html.j2",
        title=f"{comparison.a.name} and {comparison.b.name} compared",
        eyebrow="Comparison",
        c=comparison,
        points=points,
        p_text=p_text,
        date_text=date_text,
        significance=SIGNIFICANCE,
    )
