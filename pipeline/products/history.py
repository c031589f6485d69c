"""What became of results over time: runs with what changed between them, and versions that nothing needs any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import InvalidInputError
from pipeline.products.differences import Change, differences
from pipeline.storage.schema import ARTIFACT_KINDS
from pipeline.store.artifacts import Artifact, artifact_versions
from pipeline.store.runs import RunRecord, list_runs

if TYPE_CHECKING:
    from pipeline.store.dataset import Dataset


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
    return {"train": None, "models": {}, "readouts": {}, **content}


@dataclass(frozen=True)
class Prunable:
    """An older version, and whether it may go."""

    artifact: Artifact
    needed_by: tuple[str, ...]
    """What is made of it and is still there."""
    num_bytes: int
    """Of files that no other version of the name has."""


def older_versions(ds: Dataset, *, keep: int = 1) -> tuple[Prunable, ...]:
    """Return the versions beyond the newest `keep` of every name, with what is made of each.

    Raises
    ------
    InvalidInputError
        If `keep` is below 1.
    """
    if keep < 1:
        raise InvalidInputError(f"expected to keep at least the newest version, found {keep}")
    versions = {
        (kind, name): artifact_versions(ds.backend, ds.name, kind, name)
        for kind in ARTIFACT_KINDS
        for name in ds.artifacts(kind)
    }
    return tuple(
        Prunable(one, tuple(_made_from(ds, one)), _own_bytes(one, found))
        for found in versions.values()
        for one in found[:-keep]
    )


def _own_bytes(artifact: Artifact, versions: Sequence[Artifact]) -> int:
    shared = {item for other in versions if other.version != artifact.version for item in other.files.items()}
    return sum(artifact.size(file) for file, digest in artifact.files.items() if (file, digest) not in shared)


def _made_from(ds: Dataset, artifact: Artifact) -> list[str]:
    """Return the embedding sets that stand and name this model's weights."""
    if artifact.kind != "models":
        return []
    weights = artifact.meta.get("weights_sha256")
    sets: Sequence[str] = ds.embedding_sets() if weights else ()
    made_by = {name: ds.embedding_info(name).fingerprint.get("model") for name in sets}
    return [
        f"embeddings/{name}"
        for name, model in made_by.items()
        if isinstance(model, Mapping) and model.get("weights_sha256") == weights
    ]
