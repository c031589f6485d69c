"""The stage `probe`: plan what is to be measured, measure it once, keep the report in the store."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pipeline.errors import NotFoundError
from pipeline.events import OnEvent, StageFinished, StageStarted, ignore
from pipeline.fingerprint import fingerprint
from pipeline.recipe import Recipe
from probe.data.readouts import embedding_sets, probe_targets
from probe.results import PREDICTIONS_FILE, REPORT_FILE, ProbeReport
from probe.threads import num_threads

if TYPE_CHECKING:
    from pipeline import Dataset, FeatureStore
    from pipeline.settings import Settings

PROBE_VERSION = 1
"""Raised when the same inputs would give other numbers."""
HTML_FILE = "report.html"
Frames = Callable[[int], Sequence[bytes]]
Render = Callable[[ProbeReport], bytes | str]


@dataclass(frozen=True)
class PlannedProbe:
    """One probe on one feature set."""

    index: int
    """Position in the recipe's `probes`."""
    kind: str
    crops: str
    feature_set: str
    embeddings: tuple[str, ...]
    num_videos: int | None
    """Rows with committed features; None while the store does not know."""
    why: str


@dataclass(frozen=True)
class ProbePlan:
    """What would be measured."""

    recipe: Recipe
    name: str
    """Of the report in the store."""
    units: tuple[PlannedProbe, ...]
    inputs: str | None
    """Id of everything the numbers depend on; None while something is not there yet."""
    is_done: bool

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return "probe"

    @property
    def is_empty(self) -> bool:
        """Whether the report of exactly these inputs exists."""
        return self.is_done or not self.units

    def summary(self) -> str:
        """One line for people."""
        if not self.units:
            return "no probes in the recipe"
        if self.is_done:
            return f"report {self.name} is up to date: {len(self.units)} probes need not be measured again"
        return f"{len(self.units)} probes to measure for the report {self.name}: {self.units[0].why}"

    def table(self) -> list[dict[str, object]]:
        """One row a probe and feature set."""
        return [
            {
                "probe": unit.kind,
                "crops": unit.crops,
                "features": unit.feature_set,
                "embeddings": ", ".join(unit.embeddings) or "-",
                "videos": "unknown" if unit.num_videos is None else unit.num_videos,
                "why": unit.why,
            }
            for unit in self.units
        ]


def plan_probe(recipe: Recipe, store: FeatureStore, settings: Settings, *, name: str | None = None) -> ProbePlan:
    """Plan the probes of a recipe.

    Parameters
    ----------
    recipe : Recipe
    store : FeatureStore
        May lack the dataset or its features: the plan then says "unknown until extract has run".
    settings : Settings
    name : str, optional
        Of the report; None: the recipe's name.

    Raises
    ------
    NotFoundError
        If a probe names a crop set that no backbone sees.
    """
    name = name or recipe.name
    ds = store.dataset(recipe.dataset.name) if recipe.dataset.name in store.datasets() else None
    inputs = _inputs(recipe, ds)
    is_done = inputs is not None and ds is not None and _stored_inputs(ds, name) == inputs
    units = []
    for index, spec in enumerate(recipe.probes):
        for feature_set in probe_targets(recipe, spec.crops, spec.backbone):
            num_videos = _num_videos(ds, spec.crops, feature_set)
            if is_done:
                why = "unchanged since the report was made"
            elif num_videos is None:
                why = "unknown until extract has run"
            else:
                why = "the report does not exist or its inputs changed"
            names = tuple(
                e.name for e in embedding_sets(recipe) if (e.crops, e.feature_set) == (spec.crops, feature_set)
            )
            units.append(PlannedProbe(index, spec.kind, spec.crops, feature_set, names, num_videos, why))
    return ProbePlan(recipe, name, tuple(units), inputs, is_done)


def _num_videos(ds: Dataset | None, crops: str, feature_set: str) -> int | None:
    if ds is None or crops not in ds.crop_sets() or feature_set not in ds.feature_sets(crops):
        return None
    statuses = ds.status(crops, feature_set).column("status").to_pylist()
    return sum(status != "pending" for status in statuses)


def _inputs(recipe: Recipe, ds: Dataset | None) -> str | None:
    """Return the id of everything the numbers depend on."""
    if ds is None or not recipe.probes:
        return None
    sets: dict[str, Any] = {}
    for spec in recipe.probes:
        for feature_set in probe_targets(recipe, spec.crops, spec.backbone):
            if _num_videos(ds, spec.crops, feature_set) is None:
                return None
            sets[f"{spec.crops}/{feature_set}"] = [
                ds.feature_info(spec.crops, feature_set).fingerprint_id,
                ds.snapshot(crops=spec.crops, feature_set=feature_set),
            ]
    for name in _readouts_used(recipe):
        for crops, feature_set in recipe.readouts[name].feature_sets:
            if _num_videos(ds, crops, feature_set) is None:
                return None
            sets[f"{crops}/{feature_set}"] = [
                ds.feature_info(crops, feature_set).fingerprint_id,
                ds.snapshot(crops=crops, feature_set=feature_set),
            ]
    known = ds.embedding_sets()
    embeddings = {
        e.name: [ds.embedding_info(e.name).fingerprint_id, ds.snapshot(embedding=e.name)] if e.name in known else None
        for e in embedding_sets(recipe)
    }
    content = {
        "version": PROBE_VERSION,
        "dataset": recipe.dataset.name,
        "probes": [spec.model_dump(mode="json") for spec in recipe.probes],
        "embed": [spec.model_dump(mode="json") for spec in recipe.embed],
        "sets": sets,
        "embeddings": embeddings,
    }
    if used := _readouts_used(recipe):
        content["readouts"] = used
    return fingerprint(content)


def _readouts_used(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe's named readouts that a probe reads."""
    asked = {name for spec in recipe.probes for name in getattr(spec, "readouts", ())}
    return {name: spec.model_dump(mode="json") for name, spec in recipe.readouts.items() if name in asked}


def _stored_inputs(ds: Dataset, name: str) -> str | None:
    if name not in ds.artifacts("reports"):
        return None
    return ds.artifact("reports", name).meta.get("inputs")


def read_report(ds: Dataset, name: str) -> ProbeReport:
    """Read a stored report.

    Raises
    ------
    NotFoundError
        If there is none of that name; names those there are.
    """
    if name not in ds.artifacts("reports"):
        raise NotFoundError(
            f"expected the report {name!r} in dataset {ds.name}, found {ds.artifacts('reports') or 'none'}; "
            "run `scale probe` with the recipe of that name"
        )
    return ProbeReport.model_validate_json(ds.artifact("reports", name).read(REPORT_FILE))


def run_probe(
    plan: ProbePlan,
    store: FeatureStore,
    settings: Settings,
    on_event: OnEvent = ignore,
    *,
    frames: Frames | None = None,
    render: Render | None = None,
) -> ProbeReport:
    """Measure everything a plan names, and keep the report.

    Parameters
    ----------
    plan : ProbePlan
    store : FeatureStore
        Opened for writing.
    settings : Settings
        `device` trains the probes.
    on_event : callable
    frames : callable, optional
        Row -> JPEG or PNG pictures of that video, for the neighbour strips.
    render : callable, optional
        Report -> HTML; None: the project's own page.

    Returns
    -------
    ProbeReport
        The stored one where nothing that it depends on has changed.

    Raises
    ------
    NotFoundError
        If features or a split are not there.
    NoDataError
        If a side of a split is empty, or no row of it can be used.
    """
    recipe = plan.recipe
    started = time.perf_counter()
    if recipe.dataset.name not in store.datasets():
        raise NotFoundError(
            f"expected dataset {recipe.dataset.name!r} in {store.url}, found {store.datasets() or 'none'}; "
            "run `scale catalog` and `scale extract` first"
        )
    ds = store.dataset(recipe.dataset.name)
    inputs = _inputs(recipe, ds)
    if inputs is not None and _stored_inputs(ds, plan.name) == inputs:
        report = _with_details(read_report(ds, plan.name), ds, plan.name)
        update = {"did": {"probes_run": 0, "reports_skipped": 1}, "seconds": time.perf_counter() - started}
        report = report.model_copy(update=update)
        on_event(StageFinished("probe", f"report {plan.name} is up to date", report.seconds))
        return report
    on_event(StageStarted("probe", len(plan.units), "probes", f"{recipe.name} on {ds.name}"))
    from probe.session import measure_all, predictions_file

    measured = measure_all(recipe, ds, settings, on_event)
    report = ProbeReport(
        stage="probe",
        recipe=recipe.name,
        did={"probes_run": len(plan.units), "reports_skipped": 0},
        seconds=time.perf_counter() - started,
        fingerprint=fingerprint([spec.model_dump(mode="json") for spec in recipe.probes]),
        snapshot=ds.snapshot(),
        dataset=ds.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        inputs=inputs or "",
        recipe_content=recipe.model_dump(mode="json", by_alias=True),
        versions=_versions(),
        **measured.fields,
    )
    files: dict[str, bytes] = {
        REPORT_FILE: report.model_dump_json(indent=1).encode(),
        PREDICTIONS_FILE: predictions_file(measured),
    }
    html = _html(report, frames, render, on_event)
    if html is not None:
        files[HTML_FILE] = html
    meta = {
        "inputs": inputs,
        "recipe": recipe.name,
        "fingerprint": report.fingerprint,
        "snapshot": report.snapshot,
        "num_results": len(report.results),
    }
    ds.save_artifact("reports", plan.name, files, meta)
    report = _with_details(report, ds, plan.name).model_copy(
        update={"num_bytes": sum(map(len, files.values())), "seconds": time.perf_counter() - started}
    )
    on_event(StageFinished("probe", f"{len(report.results)} numbers in the report {plan.name}", report.seconds))
    return report


def _html(report: ProbeReport, frames: Frames | None, render: Render | None, on_event: OnEvent) -> bytes | None:
    if render is None:
        from probe.pages.report import render_report

        page: bytes | str = render_report(report, frames)
    else:
        page = render(report)
    return page.encode() if isinstance(page, str) else page


def _with_details(report: ProbeReport, ds: Dataset, name: str) -> ProbeReport:
    """Add what the command line prints: the lines, and where the page lies."""
    details: dict[str, Any] = {"probes": report.lines(), "artifact": f"{ds.name}/reports/{name}"}
    artifact = ds.artifact("reports", name)
    if HTML_FILE in artifact.files:
        details["report"] = str(artifact.local_path(HTML_FILE))
    return report.model_copy(update={"details": details})


def _versions() -> Mapping[str, str]:
    names = ("scale-pipeline", "torch", "faiss-cpu", "numpy")
    machine = f"{platform.system()} {platform.machine()}, {num_threads()} threads"
    return {"python": platform.python_version(), "machine": machine} | {name: version(name) for name in names}
