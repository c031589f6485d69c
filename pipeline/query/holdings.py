"""What a store holds and how far it is, as values: for commands, pages and notebooks alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc

from pipeline.errors import NoDataError
from pipeline.sets.handles import DatasetHandle, StoreHandle
from pipeline.status import VideoStatus
from pipeline.storage.schema import ARTIFACT_KINDS, PENDING


@dataclass(frozen=True)
class HeldFeatures:
    """A feature set at a glance."""

    features: str
    """``crops/feature set``."""
    crops: int
    """Crops a video."""
    dim: int
    dtype: str
    shards: str
    """``done/all``."""
    fingerprint: str
    """The first characters of its id."""
    network: str = ""
    """How its network runs: openvino, compiled or plain; empty where nothing says."""


@dataclass(frozen=True)
class Holdings:
    """A dataset at a glance."""

    dataset: str
    videos: int
    features: tuple[HeldFeatures, ...]
    embeddings: tuple[str, ...]
    models: tuple[str, ...]
    indexes: tuple[str, ...]
    reports: tuple[str, ...]
    maps: tuple[str, ...]
    snapshot: str

    def as_json(self) -> dict[str, Any]:
        """Return it as mappings and lists."""
        return asdict(self)


@dataclass(frozen=True)
class SetProgress:
    """How far a feature set is."""

    features: str
    """``dataset/crops/feature set``."""
    done: int
    total: int
    statuses: dict[str, int]
    """Status -> videos; `pending` included."""


@dataclass(frozen=True)
class FailedVideo:
    """A video that is not `ok`, and why."""

    features: str
    video: str
    status: str
    attempts: int
    error: str


def feature_pairs(dataset: DatasetHandle) -> list[tuple[str, str]]:
    """Return (crop set, feature set) of every feature set."""
    return [(crops, name) for crops in dataset.crop_sets() for name in dataset.feature_sets(crops)]


def holdings(store: StoreHandle) -> list[Holdings]:
    """Return what every dataset of a store holds."""
    return [_held(store.dataset(name)) for name in store.datasets()]


def _held(dataset: Any) -> Holdings:
    features = []
    for crops, feature_set in feature_pairs(dataset):
        info = dataset.feature_info(crops, feature_set)
        done = f"{info.num_shards_done}/{info.num_shards}"
        label = f"{crops}/{feature_set}"
        hash_start, network = info.fingerprint_id[:12], info.network or ""
        features.append(HeldFeatures(label, info.num_crops, info.dim, str(info.dtype), done, hash_start, network))
    made = {kind: tuple(dataset.artifacts(kind)) for kind in ARTIFACT_KINDS}
    return Holdings(
        dataset=dataset.name,
        videos=dataset.num_videos,
        features=tuple(features),
        embeddings=tuple(dataset.embedding_sets()),
        **made,
        snapshot=dataset.snapshot(),
    )


def progress(
    dataset: DatasetHandle, pairs: Sequence[tuple[str, str]] | None = None
) -> tuple[list[SetProgress], list[FailedVideo]]:
    """Return how far feature sets are, and the videos that failed.

    Parameters
    ----------
    dataset : Dataset
    pairs : sequence of (crop set, feature set), optional
        Only these; None: all.

    Returns
    -------
    tuple of list of SetProgress and list of FailedVideo
        While there is no feature set at all, the videos that the catalogue could not look into are failures.
    """
    there = feature_pairs(dataset)
    found, failed = [], [] if there else _unread(dataset)
    for crops, feature_set in there if pairs is None else pairs:
        tally = dict(sorted(dataset.status_counts(crops, feature_set).items()))
        total, label = sum(tally.values()), f"{dataset.name}/{crops}/{feature_set}"
        found.append(SetProgress(label, total - tally.get(PENDING, 0), total, tally))
        failed += [
            FailedVideo(label, row["video_id"], row["status"], row["attempts"], row["error"])
            for row in dataset.failed(crops, feature_set).to_pylist()
        ]
    return found, failed


def _unread(dataset: DatasetHandle) -> list[FailedVideo]:
    label = f"{dataset.name} (catalogue)"
    return [
        FailedVideo(label, video["video_id"], VideoStatus.UNREADABLE.value, 1, video["probe_error"])
        for part in dataset.parts(["video_id", "probe_error"])
        for video in part.filter(pc.is_valid(part["probe_error"])).to_pylist()
    ]


def remembered_recipes(dataset: DatasetHandle) -> list[dict[str, Any]]:
    """Return the recipes that a dataset's features were made by, each once, as they were stored.

    Raises
    ------
    NoDataError
        If no feature set remembers one.
    """
    recipes: dict[str, dict[str, Any]] = {}
    for crops, feature_set in feature_pairs(dataset):
        if content := dataset.feature_info(crops, feature_set).recipe:
            recipes[json.dumps(content, sort_keys=True)] = dict(content)
    if not recipes:
        raise NoDataError(
            f"expected features that remember their recipe in {dataset.name}, found none; run a recipe first"
        )
    return list(recipes.values())
