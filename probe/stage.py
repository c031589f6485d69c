"""The stage `probe`: plan what is to be measured, measure it once, keep the report in the store."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

from pipeline.compute.threads import num_threads
from pipeline.errors import NotFoundError
from pipeline.events import OnEvent, StageFinished, StageStarted, ignore
from pipeline.fingerprint import fingerprint
from pipeline.products import ProductPlan, Report, Standing, plan_products, report_products, standing
from pipeline.products.features import has_features
from pipeline.products.report import REPORT_FILE
from pipeline.recipe import Recipe
from pipeline.status import VideoStatus
from pipeline.storage.schema import PENDING
from pipeline.store.artifacts import split_version
from pipeline.store.feature_store import project_version
from probe.results import PREDICTIONS_FILE, ProbeReport

if TYPE_CHECKING:
    from pipeline import Dataset, FeatureStore
    from pipeline.settings import Settings
    from probe.methods.registry import Texts

HTML_FILE = "report.html"
Frames = Callable[[int], Sequence[bytes]]
Render = Callable[[ProbeReport], bytes | str]


def plan_probe(recipe: Recipe, store: FeatureStore, settings: Settings, *, name: str | None = None) -> ProductPlan:
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
    plan = plan_products("probe", recipe, report_products(recipe, name), store)
    return replace(plan, standings=tuple(replace(one, rows=_rows(one, store)) for one in plan.standings))


def _rows(one: Standing, store: FeatureStore) -> tuple[dict[str, object], ...]:
    """Add how many videos have a result; not known while the features are not there."""
    ds = store.dataset(one.product.dataset) if one.product.dataset in store.datasets() else None
    rows = []
    for row in one.product.rows():
        num_videos: object = "unknown"
        if ds is not None and has_features(ds, str(row["crops"]), str(row["features"])):
            counts = ds.status_counts(str(row["crops"]), str(row["features"]))
            num_videos = sum(n for status, n in counts.items() if status not in (PENDING, VideoStatus.REMOVED))
        rows.append({**row, "videos": num_videos})
    return tuple(rows)


def read_report(ds: Dataset, name: str) -> ProbeReport:
    """Read a stored report.

    Raises
    ------
    NotFoundError
        If there is none of that name; names those there are.
    """
    if split_version(name)[0] not in ds.artifacts("reports"):
        raise NotFoundError(
            f"expected the report {name!r} in dataset {ds.name}, found {ds.artifacts('reports') or 'none'}; "
            "run `scale probe` with the recipe of that name"
        )
    return ProbeReport.model_validate_json(ds.artifact("reports", name).read(REPORT_FILE))


def run_probe(
    plan: ProductPlan,
    store: FeatureStore,
    settings: Settings,
    on_event: OnEvent = ignore,
    *,
    frames: Frames | None = None,
    render: Render | None = None,
    texts: Texts | None = None,
) -> ProbeReport:
    """Measure everything a plan names, and keep the report.

    Parameters
    ----------
    plan : ProductPlan
    store : FeatureStore
        Opened for writing.
    settings : Settings
        `device` trains the probes.
    on_event : callable
    frames : callable, optional
        Row -> JPEG or PNG pictures of that video, for the neighbour strips.
    render : callable, optional
        Report -> HTML; None: the project's own page.
    texts : callable, optional
        (feature set, texts) -> their vectors in its backbone's space, for zero-shot probes.

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
    if not plan.standings:
        raise NotFoundError(f"expected probes in recipe {recipe.name}, found none; add a `probes` section")
    ds = store.dataset(recipe.dataset.name)
    now = standing(plan.standings[0].product, store, dataset=ds)
    product = cast(Report, now.product)
    if now.is_done:
        report = _with_details(read_report(ds, product.name), ds, product.name)
        update = {"did": {"probes_run": 0, "reports_skipped": 1}, "seconds": time.perf_counter() - started}
        report = report.model_copy(update=update)
        on_event(StageFinished("probe", f"report {product.name} is up to date", report.seconds))
        return report
    on_event(StageStarted("probe", len(product.measurements), "probes", f"{recipe.name} on {ds.name}"))
    from probe.session import measure_all, predictions_file

    measured = measure_all(product, ds, settings, on_event, texts)
    report = ProbeReport(
        stage="probe",
        recipe=recipe.name,
        did={"probes_run": len(product.measurements), "reports_skipped": 0},
        seconds=time.perf_counter() - started,
        fingerprint=fingerprint([spec.model_dump(mode="json") for spec in recipe.probes]),
        snapshot=ds.snapshot(),
        dataset=ds.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        inputs=now.fingerprint,
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
        "inputs": now.fingerprint,
        "content": now.content,
        "recipe": recipe.name,
        "fingerprint": report.fingerprint,
        "snapshot": report.snapshot,
        "num_results": len(report.results),
    }
    ds.save_artifact("reports", product.name, files, meta)
    report = _with_details(report, ds, product.name).model_copy(
        update={"num_bytes": sum(map(len, files.values())), "seconds": time.perf_counter() - started}
    )
    on_event(StageFinished("probe", f"{len(report.results)} numbers in the report {product.name}", report.seconds))
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
    if report.doubts:
        details["doubts"] = list(report.doubts)
    artifact = ds.artifact("reports", name)
    if HTML_FILE in artifact.files:
        details["report"] = str(artifact.local_path(HTML_FILE))
    return report.model_copy(update={"details": details})


def _versions() -> Mapping[str, str]:
    machine = f"{platform.system()} {platform.machine()}, {num_threads()} threads"
    found = {"python": platform.python_version(), "machine": machine, "scale-pipeline": project_version()}
    return found | {name: version(name) for name in ("torch", "faiss-cpu", "numpy")}
