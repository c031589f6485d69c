"""Reports as products: what the probes of a recipe measure, and on what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.errors import NotFoundError, PipelineError
from pipeline.products.embeddings import Embeddings, embedding_products, embeddings_read
from pipeline.products.features import feature_sets_read, features_ref
from pipeline.products.product import Kind, Product, Ref, Stored
from pipeline.recipe import LinearProbe, ProbeSpec, ReadoutSpec, Recipe
from pipeline.recipe.readout_words import UNTRAINED

if TYPE_CHECKING:
    from pipeline.store.dataset import Dataset

PROBE_VERSION = 1
"""Raised when the same inputs would give other numbers."""
SCALING_VERSION = 2
"""Raised when trained probes would scale the channels of readouts without training in another way."""
EMBEDDING_SCALING_VERSION = 1
"""As above, of embedding sets that a readout without training made."""
SOLVER_VERSION = 2
"""Raised when the same solver would give other numbers."""
REPORT_FILE = "report.json"


@dataclass(frozen=True)
class Measurement:
    """One probe on one feature set, and the embedding sets it reads beside it."""

    spec: ProbeSpec
    feature_set: str
    embeddings: tuple[Embeddings, ...]
    recipe: Recipe

    def untrained(self, readout: str) -> ReadoutSpec | None:
        """Return what a readout without training is made of here; None where it is another kind or reads others."""
        return self.recipe.readout(readout, self.spec.crops, self.feature_set)


@dataclass(frozen=True)
class Report(Product):
    """The report of a recipe's probes."""

    recipe: Recipe

    kind: ClassVar[Kind] = "report"

    @cached_property
    def measurements(self) -> tuple[Measurement, ...]:
        """Every probe on every feature set that it reads."""
        return tuple(
            Measurement(spec, name, embeddings_read(self.recipe, spec.crops, name, spec.models), self.recipe)
            for spec in self.recipe.probes
            for name in feature_sets_read(self.recipe, spec.crops, spec.feature_set)
        )

    @cached_property
    def readouts(self) -> dict[str, ReadoutSpec]:
        """The recipe's named readouts that a probe reads."""
        asked = {name for spec in self.recipe.probes for name in getattr(spec, "readouts", ())}
        return {name: spec for name, spec in self.recipe.readouts.items() if name in asked}

    @cached_property
    def feature_sets(self) -> tuple[tuple[str, str], ...]:
        """Every (crops, feature set) that is read."""
        own = [(m.spec.crops, name) for m in self.measurements for name in (m.feature_set, *m.spec.also_reads)]
        return tuple(dict.fromkeys(own + [pair for spec in self.readouts.values() for pair in spec.feature_sets]))

    @cached_property
    def towers(self) -> dict[str, Any]:
        """The text towers that zero-shot probes compare with, by feature set."""
        asked = {m.feature_set for m in self.measurements if m.spec.kind == "zero_shot"}
        found = {name: self.recipe.text_tower(name) for name in sorted(asked)}
        return {name: tower.model_dump(mode="json") for name, tower in found.items() if tower is not None}

    @property
    def inputs(self) -> tuple[Ref, ...]:
        """The embedding sets, and the features."""
        return (*(one.ref for one in embedding_products(self.recipe)), *self.needs)

    @property
    def needs(self) -> tuple[Ref, ...]:
        """The features: an embedding set that is not there is left out, and the report says so."""
        return tuple(features_ref(*pair) for pair in self.feature_sets)

    def content(self, ds: Dataset) -> Mapping[str, Any]:
        """Return the probes, and fingerprint and state of everything they read."""
        sets = {
            f"{crops}/{name}": [ds.feature_info(crops, name).fingerprint_id, ds.snapshot(crops=crops, feature_set=name)]
            for crops, name in self.feature_sets
        }
        there = ds.embedding_sets()
        embeddings = {
            e.name: [ds.embedding_info(e.name).fingerprint_id, ds.snapshot(embedding=e.name)]
            if e.name in there
            else None
            for e in embedding_products(self.recipe)
        }
        readouts = {name: spec.decides() for name, spec in self.readouts.items()}
        return {
            "version": PROBE_VERSION,
            "dataset": self.dataset,
            "probes": [_content(spec, self.recipe) for spec in self.recipe.probes],
            "embed": [spec.model_dump(mode="json") for spec in self.recipe.embed],
            "sets": sets,
            "embeddings": embeddings,
            **({"readouts": readouts} if readouts else {}),
            **({"text": self.towers} if self.towers else {}),
        }

    def stored(self, ds: Dataset) -> Stored | None:
        """Return the report of this name."""
        try:
            artifact = ds.artifact("reports", self.name)
            if not artifact.is_whole():  # its files are gone or cut: as good as none
                return None
            content = artifact.meta.get("content")
            if content is None:
                recipe = json.loads(artifact.read(REPORT_FILE))["recipe_content"]
                content = {key: recipe.get(key, []) for key in ("probes", "embed")}
        except NotFoundError:
            return None
        except (ValueError, KeyError, PipelineError):  # an old report that cannot be read says less, no more
            content = {}
        return Stored(str(artifact.meta.get("inputs") or ""), "", content)

    def made_of(self, key: str) -> Ref | None:
        """Return the features or embeddings whose state a key holds."""
        for ref, prefix in ((r, "embeddings." if r.kind == "embeddings" else "sets.") for r in self.inputs):
            if key.partition("[")[0] == prefix + ref.name:
                return ref
        return None

    def field(self, key: str) -> str:
        """``probes[0].k``, as the recipe has it."""
        return key

    def rows(self) -> list[dict[str, object]]:
        """One row a probe and feature set."""
        return [
            {
                "probe": m.spec.kind,
                "split": m.spec.split,
                "crops": m.spec.crops,
                "features": m.feature_set,
                "embeddings": ", ".join(e.name for e in m.embeddings) or "-",
            }
            for m in self.measurements
        ]


def _content(spec: ProbeSpec, recipe: Recipe) -> dict[str, Any]:
    """Return a probe's fields, and by what it is solved: reports that name no solver were made with AdamW."""
    content: dict[str, Any] = spec.model_dump(mode="json")
    if isinstance(spec, LinearProbe):
        content.pop("solver", None)
        if spec.may_be_solved:
            content |= {"solver": spec.solver, "solver_version": SOLVER_VERSION}
        if _scales_untrained(spec, recipe):
            content["scaling"] = SCALING_VERSION
        if _reads_untrained_embeddings(spec, recipe):
            content["embedding_scaling"] = EMBEDDING_SCALING_VERSION
    return content


def _scales_untrained(spec: LinearProbe, recipe: Recipe) -> bool:
    """Whether a trained probe reads a readout without training that is not projected, whose channels it scales."""
    named = {name: readout.project == "none" for name, readout in recipe.readouts.items()}
    return any(name in UNTRAINED or named.get(name, False) for name in spec.reads)


def _reads_untrained_embeddings(spec: LinearProbe, recipe: Recipe) -> bool:
    """Whether a trained probe reads an embedding set that a readout without training made."""
    if "cls" not in spec.reads:
        return False
    names = feature_sets_read(recipe, spec.crops, spec.feature_set)
    read = (one for name in names for one in embeddings_read(recipe, spec.crops, name, spec.models))
    return any(one.untrained is not None for one in read)


def report_products(recipe: Recipe, name: str | None = None) -> tuple[Report, ...]:
    """Return the recipe's report, if it has probes; `name` is the report's, else the recipe's."""
    return (Report(recipe.dataset.name, name or recipe.name, "probes", recipe),) if recipe.probes else ()
