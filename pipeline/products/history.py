"""What became of results over time: runs with what changed between them, and versions that nothing needs any more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.errors import InvalidInputError
from pipeline.products.backbone import features_made_of, is_backbone
from pipeline.products.differences import Change, differences
from pipeline.products.graph import products_of
from pipeline.products.product import Kind
from pipeline.recipe import Recipe
from pipeline.storage.schema import ARTIFACT_KINDS, embedding_set_key
from pipeline.store.artifacts import Artifact, artifact_versions, drop_version
from pipeline.store.kept_embeddings import older_embeddings
from pipeline.store.runs import RunRecord, list_runs

if TYPE_CHECKING:
    from pipeline.store.dataset import Dataset


FOLDERS: Mapping[Kind, str] = {"model": "models", "embeddings": "embeddings", "report": "reports", "index": "indexes"}
"""Where the products that have versions lie."""


@dataclass(frozen=True)
class PastRun:
    """A run, and in which fields its recipe differed from the run of that name before."""

    record: RunRecord
    changes: tuple[Change, ...]
    is_first: bool

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The number with the highest top-1."""
        rows = [row for row in self.record.numbers if row.get("top1") is not None]
        return max(rows, key=lambda row: float(row["top1"]), default=None)


def past_runs(ds: Dataset) -> tuple[PastRun, ...]:
    """Return every run of a dataset, the oldest first."""
    before: dict[str, RunRecord] = {}
    found = []
    for record in list_runs(ds.backend, ds.name):
        last = before.get(record.recipe)
        changes = () if last is None else differences(_whole(last.content), _whole(record.content))
        found.append(PastRun(record, changes, last is None))
        before[record.recipe] = record
    return tuple(found)


def _whole(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Let sections that a recipe leaves out count as empty, so that a new one is a difference, too."""
    return {"train": None, "models": {}, "readouts": {}, "pretrain": {}, **content}


@dataclass(frozen=True)
class Prunable:
    """An older version of something, and whether it may go."""

    label: str
    """``reports/demo@1``."""
    saved_at: str
    num_bytes: int
    """Of files that no other version of the name has."""
    needed_by: tuple[str, ...]
    """What is made of it and stays."""
    remove: Callable[[], object]


def older_versions(ds: Dataset, *, keep: int = 1, of: Collection[str] | None = None) -> tuple[Prunable, ...]:
    """Return the versions beyond the newest `keep` of every name, with what is made of each.

    Parameters
    ----------
    ds : Dataset
    keep : int, default 1
    of : collection of str, optional
        Only of these, as ``reports/demo``; None: of all.

    Raises
    ------
    InvalidInputError
        If `keep` is below 1.
    """
    if keep < 1:
        raise InvalidInputError(f"expected to keep at least the newest version, found {keep}")
    names = [name for name in ds.embedding_sets() if "@" not in name and (of is None or f"embeddings/{name}" in of)]
    kept = {name: older_embeddings(ds, name) for name in names}
    old_sets = [one for found in kept.values() for one in found[: max(0, len(found) + 1 - keep)]]
    found = [
        Prunable(f"embeddings/{one}", "", _set_bytes(ds, one), (), partial(ds.drop_embeddings, one)) for one in old_sets
    ]
    staying = [name for name in ds.embedding_sets() if name not in old_sets]
    for kind in ARTIFACT_KINDS:
        for name in ds.artifacts(kind):
            if of is not None and f"{kind}/{name}" not in of:
                continue
            versions = artifact_versions(ds.backend, ds.name, kind, name)
            for one in versions[:-keep]:
                needed = tuple(_made_from(ds, one, staying))
                remove = partial(drop_version, ds.backend, one)
                found.append(Prunable(one.label, one.saved_at, _own_bytes(one, versions), needed, remove))
    return tuple(found)


def keep_versions(recipe: Recipe, ds: Dataset) -> tuple[Prunable, ...]:
    """Remove what a recipe's `keep` lets go of the versions of its own products; return what went."""
    if recipe.keep is None:
        return ()
    own = {f"{FOLDERS[one.kind]}/{one.name}" for one in products_of(recipe) if one.kind in FOLDERS}
    own |= {f"models/{one.name}.whitening" for one in products_of(recipe) if one.kind == "embeddings"}
    going = tuple(one for one in older_versions(ds, keep=recipe.keep, of=own) if not one.needed_by)
    for one in going:
        one.remove()
    return going


def _set_bytes(ds: Dataset, name: str) -> int:
    return sum(size for _, size in ds.backend.list(embedding_set_key(ds.name, name)))


def _own_bytes(artifact: Artifact, versions: Sequence[Artifact]) -> int:
    shared = {item for other in versions if other.version != artifact.version for item in other.files.items()}
    return sum(artifact.size(file) for file, digest in artifact.files.items() if (file, digest) not in shared)


def _made_from(ds: Dataset, artifact: Artifact, embedding_sets: Sequence[str]) -> list[str]:
    """Return which of these embedding sets name this model's weights; of a backbone also the feature sets."""
    weights = artifact.meta.get("weights_sha256")
    if artifact.kind != "models" or not weights:
        return []
    made = [f"features/{label}" for label in features_made_of(ds, weights)] if is_backbone(artifact) else []
    made_by = {name: ds.embedding_info(name).fingerprint.get("model") for name in embedding_sets}
    return made + [
        f"embeddings/{name}"
        for name, model in made_by.items()
        if isinstance(model, Mapping) and model.get("weights_sha256") == weights
    ]
