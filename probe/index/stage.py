"""The stage `index`: a FAISS index over one vector a video, as a derived artefact of a snapshot."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pipeline.errors import NotFoundError
from pipeline.events import Note, OnEvent, Progress, StageFinished, StageStarted, ignore
from pipeline.products import Index, ProductPlan, Standing, index_products, plan_products, standing
from pipeline.products.index import INDEX_VERSION
from pipeline.recipe import Recipe
from pipeline.reports import StageReport
from probe.data.vectors import Transform, VectorSource, mean_vector
from probe.index.faiss_index import BuiltIndex, build_index, write_index_file
from probe.index.search import (
    CENTRE_FILE,
    INDEX_FILE,
    Neighbours,
    SearchHit,
    SearchIndex,
    describe_hits,
    index_names,
    open_index,
    search_index,
    search_stored,
)
from probe.threads import load_faiss

if TYPE_CHECKING:
    from pipeline import FeatureStore
    from pipeline.settings import Settings

__all__ = [
    "Neighbours",
    "SearchHit",
    "SearchIndex",
    "describe_hits",
    "index_names",
    "open_index",
    "plan_index",
    "run_index",
    "search_index",
    "search_stored",
]


def plan_index(recipe: Recipe, store: FeatureStore, settings: Settings, *, force: bool = False) -> ProductPlan:
    """Find out which indexes are missing or stale; reads no features.

    Parameters
    ----------
    recipe : Recipe
        Where it names no index, one over the pooled crops of its last feature set is planned.
    store : FeatureStore
    settings : Settings
    force : bool
        Build again what is up to date, too.

    Returns
    -------
    ProductPlan
        Where the features do not exist yet, its rows say "unknown until extract has run".
    """
    plan = plan_products("index", recipe, index_products(recipe), store, force=force)
    return replace(plan, standings=tuple(replace(one, rows=_rows(one, store)) for one in plan.standings))


def _rows(one: Standing, store: FeatureStore) -> tuple[dict[str, object], ...]:
    known: dict[str, object] = {"videos": "unknown"}
    if one.content is not None:
        known = {"videos": store.dataset(one.product.dataset).num_rows, "kind": one.content["kind"]}
    return tuple({**row, **known} for row in one.product.rows())


def run_index(plan: ProductPlan, store: FeatureStore, settings: Settings, on_event: OnEvent = ignore) -> StageReport:
    """Build what the plan says, each index whole or not at all.

    Returns
    -------
    StageReport
        ``did``: indexes_built, indexes_skipped. ``details["indexes"]``: for each built one its kind, size,
        measured recall and seconds.

    Raises
    ------
    NotFoundError
        If the vectors an index is made of do not exist.
    """
    started = time.perf_counter()
    todo = plan.todo
    on_event(StageStarted("index", total=len(todo), unit="indexes", detail=plan.summary()))
    built: list[dict[str, Any]] = []
    num_bytes = 0
    for done, planned in enumerate(todo):
        now = standing(planned.product, store)
        if now.waits_for is not None:
            raise NotFoundError(
                f"expected {now.waits_for} in dataset {now.product.dataset} for index {now.product.name}, found none "
                f"({now.why}); run the stages before it"
            )
        meta = _build(now, store, plan.recipe.name)
        num_bytes += int(meta["num_bytes"])
        built.append(meta)
        on_event(Note("index", _describe(meta)))
        on_event(Progress("index", done=done + 1, total=len(todo)))
    seconds = time.perf_counter() - started
    report = StageReport(
        stage="index",
        recipe=plan.recipe.name,
        did={"indexes_built": len(built), "indexes_skipped": len(plan.standings) - len(built)},
        seconds=seconds,
        num_bytes=num_bytes,
        fingerprint=built[-1]["fingerprint"] if built else (plan.standings[-1].fingerprint if plan.standings else ""),
        snapshot=built[-1]["snapshot"] if built else plan.snapshot,
        details={"indexes": built},
    )
    on_event(StageFinished("index", f"{len(built)} built, {report.did['indexes_skipped']} skipped", seconds))
    return report


def _describe(meta: dict[str, Any]) -> str:
    measured = ", ".join(f"recall@{k} {value:.3f}" for k, value in meta["recall"].items())
    found = f"{measured} (measured on {meta['num_recall_queries']} stored videos)" if measured else "exact"
    if alone := ", ".join(f"recall@{k} {value:.3f}" for k, value in meta["recall_compressed"].items()):
        found += f", candidates put in order by their stored vectors (without: {alone})"
    return f"{meta['name']}: {meta['kind']} over {meta['num_vectors']} videos x {meta['dim']}, {found}"


def _build(one: Standing, store: FeatureStore, recipe: str) -> dict[str, Any]:
    source = VectorSource.of(cast(Index, one.product))
    assert one.content is not None
    started = time.perf_counter()
    ds = store.dataset(source.dataset)
    part_dims = source.part_dims(ds)
    # The handle pins catalogue and ledger: both passes, and the snapshot, see one state of the store.
    centre, count = mean_vector(source.batches(ds), sum(part_dims))
    transform = Transform(part_dims, centre, source.say)

    def unit_batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows, vectors in source.batches(ds):
            yield rows, transform(vectors)

    built = build_index(unit_batches, count, transform.dim, one.content["kind"])
    with tempfile.TemporaryDirectory(prefix="scale-index-") as folder:
        path = Path(folder) / INDEX_FILE
        write_index_file(built, path)
        meta = _meta(one, built, source, part_dims, recipe, source.snapshot(ds)) | {
            "reads": source.reads(ds),
            "num_excluded": ds.num_rows - count,
            "num_bytes": path.stat().st_size,
            "seconds": round(time.perf_counter() - started, 3),
        }
        ds.save_artifact("indexes", one.product.name, {INDEX_FILE: path, CENTRE_FILE: centre.tobytes()}, meta)
    return meta


def _meta(
    one: Standing, built: BuiltIndex, source: VectorSource, part_dims: tuple[int, ...], recipe: str, snapshot: str
) -> dict[str, Any]:
    return {
        "version": INDEX_VERSION,
        "name": one.product.name,
        "recipe": recipe,
        "fingerprint": one.fingerprint,
        "content": one.content,
        "snapshot": snapshot,
        "kind": built.kind,
        "metric": "cosine of centred vectors",
        "dim": built.dim,
        "part_dims": list(part_dims),
        "num_vectors": built.num_vectors,
        "recall": built.recall,
        "recall_compressed": built.recall_compressed,
        "num_recall_queries": built.num_recall_queries,
        "effort": built.effort,
        "source": {
            "dataset": source.dataset,
            "readout": source.readout,
            "crops": source.crops,
            "feature_set": source.feature_set,
            "embedding": source.embedding,
            **({"spec": source.spec} if source.spec is not None else {}),
        },
        "faiss": load_faiss().__version__,
    }
