"""The stage `index`: a FAISS index over one vector a video, as a derived artefact of a snapshot."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pipeline.errors import NotFoundError
from pipeline.events import Note, OnEvent, Progress, StageFinished, StageStarted, ignore
from pipeline.fingerprint import fingerprint
from pipeline.recipe import IndexSpec, Recipe
from pipeline.reports import StageReport
from probe.data.vectors import Transform, VectorSource, mean_vector, pick_source
from probe.index.faiss_index import BuiltIndex, IndexKind, build_index, choose_kind, write_index_file
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
    "IndexPlan",
    "IndexUnit",
    "Neighbours",
    "SearchHit",
    "SearchIndex",
    "default_specs",
    "describe_hits",
    "index_names",
    "open_index",
    "plan_index",
    "run_index",
    "search_index",
    "search_stored",
]

INDEX_VERSION = 1
COMPRESSED_INDEX_VERSION = 2
"""Of IVF-PQ: its effort is chosen by the recall after candidates were put in order."""


@dataclass(frozen=True)
class IndexUnit:
    """One index to build, or to leave as it is."""

    spec: IndexSpec
    name: str
    source: VectorSource | None
    """None while what it reads does not exist yet."""
    num_videos: int
    kind: IndexKind | None
    fingerprint: str
    snapshot: str
    is_done: bool
    why: str


@dataclass(frozen=True)
class IndexPlan:
    """What `scale index` would do."""

    recipe: str
    dataset: str
    units: tuple[IndexUnit, ...]
    stage: str = field(default="index", init=False)

    @property
    def is_empty(self) -> bool:
        """Whether every index is there and of the present snapshot."""
        return all(unit.is_done for unit in self.units)

    def summary(self) -> str:
        """One line: how many indexes would be built."""
        todo = [unit for unit in self.units if not unit.is_done]
        if not self.units:
            return "index: the recipe asks for no index"
        if not todo:
            return f"index: all {len(self.units)} up to date"
        return f"index: build {', '.join(unit.name for unit in todo)} ({len(self.units) - len(todo)} up to date)"

    def table(self) -> list[dict[str, object]]:
        """One row an index."""
        return [
            {
                "index": unit.name,
                "vectors": unit.source.label if unit.source else f"{unit.spec.readout} of {unit.spec.crops}",
                "videos": unit.num_videos or "unknown",
                "kind": unit.kind or unit.spec.kind,
                "do": "nothing" if unit.is_done else "build",
                "why": unit.why,
            }
            for unit in self.units
        ]


def default_specs(recipe: Recipe) -> tuple[IndexSpec, ...]:
    """Return the recipe's indexes, or one over the pooled crops of its last feature set when it names none."""
    if recipe.indexes:
        return recipe.indexes
    crops = recipe.probes[0].crops if recipe.probes else recipe.targets()[-1].crops
    return (IndexSpec(crops=crops),)


def plan_index(
    recipe: Recipe, store: FeatureStore, settings: Settings, *, force: bool = False, **_options: Any
) -> IndexPlan:
    """Find out which indexes are missing or stale; reads no features.

    Parameters
    ----------
    recipe : Recipe
    store : FeatureStore
    settings : Settings
    force : bool
        Build again what is up to date, too.

    Returns
    -------
    IndexPlan
        Where the features do not exist yet, its rows say "unknown until extract has run".
    """
    units = [unit for spec in default_specs(recipe) for unit in _units_of(recipe, spec, store, force)]
    return IndexPlan(recipe.name, recipe.dataset.name, tuple(units))


def _units_of(recipe: Recipe, spec: IndexSpec, store: FeatureStore, force: bool) -> Iterator[IndexUnit]:
    feature_sets = list(dict.fromkeys(t.feature_set for t in recipe.targets() if t.crops == spec.crops))
    if spec.backbone is not None:
        feature_sets = [spec.backbone]
    untrained = {f: recipe.readout(spec.readout, spec.crops, f) for f in feature_sets}
    if spec.readout in recipe.readouts:  # it names its feature sets by itself
        feature_sets = [f for f in feature_sets if untrained[f] is not None]
    for feature_set in feature_sets:
        name = spec.name if len(feature_sets) == 1 else f"{spec.name}-{feature_set}"
        embedding = _embedding_name(recipe, spec, feature_set)
        try:
            source = pick_source(
                store,
                recipe.dataset.name,
                readout=spec.readout,
                crops=spec.crops,
                feature_set=feature_set,
                embedding=embedding,
                spec=untrained[feature_set],
            )
        except NotFoundError:
            stage = "embed" if spec.readout in ("cls", "joined") else "extract"
            why = f"unknown until {stage} has run"
            yield IndexUnit(spec, name, None, 0, None, "", "", False, why)
            continue
        yield _unit(spec, name, source, store, force)


def _embedding_name(recipe: Recipe, spec: IndexSpec, feature_set: str) -> str | None:
    for embed in recipe.embed:
        reads = embed.backbone or (recipe.train.backbone if recipe.train else None)
        if embed.crops == spec.crops and reads == feature_set:
            return embed.name or (recipe.train.name if recipe.train else None)
    return recipe.train.name if recipe.train else None


def _unit(spec: IndexSpec, name: str, source: VectorSource, store: FeatureStore, force: bool) -> IndexUnit:
    ds = store.dataset(source.dataset)
    kind = choose_kind(ds.num_rows, sum(source.part_dims(ds))) if spec.kind == "auto" else spec.kind
    version = COMPRESSED_INDEX_VERSION if kind == "ivfpq" else INDEX_VERSION
    wanted = fingerprint({"version": version, "kind": kind, "source": source.fingerprint(ds)})
    snapshot = source.snapshot(ds)
    why = "missing"
    if name in ds.artifacts("indexes"):
        meta = ds.artifact("indexes", name).meta
        if meta.get("fingerprint") != wanted:
            why = "made another way"
        elif meta.get("snapshot") != snapshot:
            why = "stale: the store has changed since"
        else:
            why = "forced" if force else "up to date"
    return IndexUnit(spec, name, source, ds.num_rows, kind, wanted, snapshot, why == "up to date", why)


def run_index(plan: IndexPlan, store: FeatureStore, settings: Settings, on_event: OnEvent = ignore) -> StageReport:
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
    todo = [unit for unit in plan.units if not unit.is_done]
    on_event(StageStarted("index", total=len(todo), unit="indexes", detail=plan.summary()))
    built: list[dict[str, Any]] = []
    num_bytes = 0
    for done, unit in enumerate(todo):
        if unit.source is None:
            raise NotFoundError(
                f"expected the vectors of index {unit.name} ({unit.spec.readout} of {unit.spec.crops}) in dataset "
                f"{plan.dataset}, found none ({unit.why}); run the stages before it"
            )
        meta = _build(unit, store, plan.recipe)
        num_bytes += int(meta["num_bytes"])
        built.append(meta)
        on_event(Note("index", _describe(meta)))
        on_event(Progress("index", done=done + 1, total=len(todo)))
    seconds = time.perf_counter() - started
    report = StageReport(
        stage="index",
        recipe=plan.recipe,
        did={"indexes_built": len(built), "indexes_skipped": len(plan.units) - len(built)},
        seconds=seconds,
        num_bytes=num_bytes,
        fingerprint=built[-1]["fingerprint"] if built else (plan.units[-1].fingerprint if plan.units else ""),
        snapshot=built[-1]["snapshot"] if built else (plan.units[-1].snapshot if plan.units else ""),
        details={"indexes": built},
    )
    on_event(
        StageFinished("index", summary=f"{len(built)} built, {len(plan.units) - len(built)} skipped", seconds=seconds)
    )
    return report


def _describe(meta: dict[str, Any]) -> str:
    measured = ", ".join(f"recall@{k} {value:.3f}" for k, value in meta["recall"].items())
    found = f"{measured} (measured on {meta['num_recall_queries']} stored videos)" if measured else "exact"
    if alone := ", ".join(f"recall@{k} {value:.3f}" for k, value in meta["recall_compressed"].items()):
        found += f", candidates put in order by their stored vectors (without: {alone})"
    return f"{meta['name']}: {meta['kind']} over {meta['num_vectors']} videos x {meta['dim']}, {found}"


def _build(unit: IndexUnit, store: FeatureStore, recipe: str) -> dict[str, Any]:
    source = cast(VectorSource, unit.source)
    started = time.perf_counter()
    ds = store.dataset(source.dataset)
    part_dims = source.part_dims(ds)
    # The handle pins catalogue and ledger: both passes, and the snapshot, see one state of the store.
    centre, count = mean_vector(source.batches(ds), sum(part_dims))
    transform = Transform(part_dims, centre, source.say)

    def unit_batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows, vectors in source.batches(ds):
            yield rows, transform(vectors)

    built = build_index(unit_batches, count, transform.dim, cast(IndexKind, unit.kind))
    with tempfile.TemporaryDirectory(prefix="scale-index-") as folder:
        path = Path(folder) / INDEX_FILE
        write_index_file(built, path)
        meta = _meta(unit, built, source, part_dims, recipe, source.snapshot(ds)) | {
            "num_excluded": ds.num_rows - count,
            "num_bytes": path.stat().st_size,
            "seconds": round(time.perf_counter() - started, 3),
        }
        ds.save_artifact("indexes", unit.name, {INDEX_FILE: path, CENTRE_FILE: centre.tobytes()}, meta)
    return meta


def _meta(
    unit: IndexUnit, built: BuiltIndex, source: VectorSource, part_dims: tuple[int, ...], recipe: str, snapshot: str
) -> dict[str, Any]:
    return {
        "version": INDEX_VERSION,
        "name": unit.name,
        "recipe": recipe,
        "fingerprint": unit.fingerprint,
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
