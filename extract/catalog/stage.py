"""The catalog stage: finds the videos that a recipe names and appends those that are new to the catalogue.

Known videos are recognised by their id. A known file whose size is the same
and whose inode has not changed since it was catalogued is not read again; of
any other the bytes are compared (:mod:`extract.catalog.looking_again`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from extract.catalog.annotations import Annotation
from extract.catalog.datasets import image_fps_of, list_rows
from extract.catalog.inspect_videos import probe_videos
from extract.catalog.known_videos import known_videos
from extract.catalog.listed_video import ListedVideo
from extract.catalog.looking_again import KnownVideo, look_again, may_have_changed, told
from extract.catalog.matching import how_many
from extract.catalog.parts import facts_of_part
from extract.decoding.inspect import VideoInfo
from extract.places.elsewhere import Place
from extract.places.files import Files
from pipeline.errors import NoDataError, PipelineError
from pipeline.events import Note, OnEvent, Progress, StageFinished, StageStarted, VideoFailed, ignore
from pipeline.products import Standing, Videos
from pipeline.products.standing import State
from pipeline.recipe import Recipe
from pipeline.recipe.dataset import DatasetBase, DatasetSpec, NoLabels, NoSplits
from pipeline.recipe.datasets.stored import StoredDataset
from pipeline.reports import SkippedVideo, StageReport
from pipeline.settings import Settings
from pipeline.status import VideoStatus
from pipeline.storage.schema import CATALOGUE_SCHEMA
from pipeline.store.labels import LABEL_COLUMNS, RECIPE, label_difference

if TYPE_CHECKING:
    from pipeline import FeatureStore
    from pipeline.store.dataset import Dataset

COMMIT_VIDEOS = 8192
"""Videos a catalogue commit: what a killed run loses at most, and how many rows a catalogue file has."""

_TABLE_LINES = 30


@dataclass(frozen=True)
class CatalogPlan:
    """What the catalog stage would do."""

    recipe: str
    dataset: DatasetBase
    new: tuple[ListedVideo, ...]
    annotations: tuple[Annotation, ...]
    """Of the new videos."""
    to_check: tuple[KnownVideo, ...]
    """Known videos touched since they were catalogued: their bytes are compared."""
    num_known: int
    """Known videos in all, those to check included."""
    num_gone: int
    """Videos of the catalogue that the recipe no longer finds."""
    relabelled: Mapping[int, Mapping[str, object]]
    """Row -> label, labels, splits, group that the recipe gives differently now; taken without extracting anything."""
    relabelled_example: str = ""
    """One of them, and how it differs."""
    image_fps: float = 30.0
    """Of folders of images."""
    num_kept_by_hand: int = 0
    """Known videos whose labels differ from the recipe's because `scale label` gave them; they stay."""
    notes: tuple[str, ...] = ()
    """Rows of lists that match no video, videos without a label."""
    replace: bool = False
    """Whether changed files that gave features are described anew, so that their features are made again."""

    stage = "catalog"

    @property
    def is_empty(self) -> bool:
        """Whether no video is new, none has been touched, and none has another label."""
        return not self.new and not self.to_check and not self.relabelled

    @property
    def num_relabelled(self) -> int:
        """Known videos whose label, splits or group are given differently now."""
        return len(self.relabelled)

    @property
    def standings(self) -> tuple[Standing, ...]:
        """The videos as a product: what everything else follows."""
        state: State = "done" if self.is_empty else "partly done" if self.num_known else "missing"
        videos = Videos(self.dataset.name, self.dataset.name, "dataset")
        num_videos = self.num_known + len(self.new)
        return (Standing(videos, state, num_units=num_videos, todo=tuple(range(self.num_known, num_videos))),)

    def summary(self) -> str:
        """One line: how many videos, and why."""
        parts = [f"{len(self.new)} new videos to look into", f"{self.num_known} known"]
        if self.to_check:
            parts.append(f"{len(self.to_check)} of them touched since or late, to be looked at")
        if self.num_gone:
            parts.append(f"{self.num_gone} of the catalogue are not found any more")
        if self.num_relabelled:
            parts.append(f"{self.num_relabelled} with new labels, splits or groups ({self.relabelled_example})")
        return f"dataset {self.dataset.name}: " + ", ".join(parts)

    def table(self) -> Sequence[Mapping[str, object]]:
        """Return the first lines of the work."""
        lines: list[Mapping[str, object]] = [
            {"video": video.video_id, "label": ";".join(note.labels), "splits": len(note.splits), "why": "new"}
            for video, note in zip(self.new[:_TABLE_LINES], self.annotations, strict=False)
        ]
        lines += [
            {"video": known.video.video_id, "label": "", "splits": "", "why": "late or touched since it was catalogued"}
            for known in self.to_check[: _TABLE_LINES - len(lines)]
        ]
        left = len(self.new) + len(self.to_check) - len(lines)
        if left > 0:
            lines.append({"video": f"... {left} more", "label": "", "splits": "", "why": ""})
        return lines


def plan_catalog(recipe: Recipe, store: FeatureStore, settings: Settings, *, replace: bool = False) -> CatalogPlan:
    """List the recipe's videos and compare them with the catalogue. Opens no video.

    Parameters
    ----------
    recipe : Recipe
    store : FeatureStore
        The dataset need not exist yet.
    settings : Settings
        `data` is the folder that the recipe's paths are relative to.
    replace : bool
        Describe changed files anew that gave features already; their features are made again.

    Raises
    ------
    NoDataError
        If no video is found.
    ManifestError
        If a manifest, label or split file cannot be used.
    """
    dataset = recipe.dataset
    if isinstance(dataset, StoredDataset):
        return _plan_of_stored(recipe, store)
    listed, annotations = list_rows(dataset, settings)
    notes = list(getattr(annotations, "notes", ()))
    bare = [video.video_id for video, note in zip(listed, annotations, strict=True) if not note.labels]
    if bare and "label" in _declared(dataset):
        notes.append(how_many(len(bare), f"of {len(listed)} videos without a label", bare[0]))
    stored = store.dataset(dataset.name) if dataset.name in store.datasets() else None
    by_hand = set(stored.rows_labelled_by_hand()) if stored else set()
    looked_at = stored.looked_at() if stored else {}
    declared = _declared(dataset)
    is_new = np.ones(len(listed), bool)
    to_check: dict[int, KnownVideo] = {}
    relabelled: dict[int, Mapping[str, object]] = {}
    num_kept, num_gone, example = 0, 0, ""
    for place, known in known_videos(stored, [video.video_id for video in listed]) if stored else ():
        if place < 0:
            num_gone += 1
            continue
        is_new[place] = False
        video = listed[place]
        wanted = {name: value for name, value in _labels(annotations[place]).items() if name in declared}
        if difference := label_difference(known, {**known, **wanted}):
            if known["row"] in by_hand:
                num_kept += 1
            else:
                relabelled[known["row"]] = wanted
                example = example or f"{video.video_id}: {difference}"
        if may_have_changed(video, known, looked_at.get(known["row"], known["added_at"])):
            to_check[place] = KnownVideo(known["row"], video, known["sha256"], known["bytes"], known["probe_error"])
    return CatalogPlan(
        recipe=recipe.name,
        dataset=dataset,
        new=tuple(compress(listed, is_new)),
        annotations=tuple(compress(annotations, is_new)),
        to_check=tuple(known for _, known in sorted(to_check.items())),
        num_known=int((~is_new).sum()),
        num_gone=num_gone,
        relabelled=relabelled,
        relabelled_example=example,
        image_fps=image_fps_of(dataset),
        num_kept_by_hand=num_kept,
        notes=tuple(notes),
        replace=replace,
    )


def num_uncatalogued(recipe: Recipe, store: FeatureStore, settings: Settings) -> int:
    """Return how many videos of a recipe the catalogue lacks; 0 where the list cannot be read from here."""
    try:
        return len(plan_catalog(recipe, store, settings).new)
    except PipelineError:
        return 0


def _plan_of_stored(recipe: Recipe, store: FeatureStore) -> CatalogPlan:
    name = recipe.dataset.name
    if name not in store.datasets():
        there = ", ".join(store.datasets()) or "none"
        raise NoDataError(f"expected the dataset {name} in {store.url}, found {there}; `scale import` features first")
    return CatalogPlan(recipe.name, recipe.dataset, (), (), (), store.dataset(name).num_videos, 0, {})


def run_catalog(
    plan: CatalogPlan,
    store: FeatureStore,
    settings: Settings,
    on_event: OnEvent = ignore,
    *,
    commit_videos: int = COMMIT_VIDEOS,
) -> StageReport:
    """Look into the new videos and append them; safe to run again at any time.

    Parameters
    ----------
    plan : CatalogPlan
    store : FeatureStore
        Opened for writing; the dataset is created if it is not there.
    settings : Settings
        `workers` processes look into videos at once.
    on_event : callable
    commit_videos : int
        So many are looked into and appended together; an interrupted run keeps what it appended.

    Returns
    -------
    StageReport
        `did`: videos_new, videos_known, videos_unreadable; where there are any also videos_relabelled, videos_late
        (could not be used before), videos_replaced, videos_changed (left as they were, because they gave features).
    """
    started = time.monotonic()
    on_event(StageStarted("catalog", len(plan.new), "videos", plan.summary()))
    if isinstance(plan.dataset, StoredDataset):
        dataset = store.dataset(plan.dataset.name)
    else:
        dataset = store.create_dataset(plan.dataset.name, shard_rows=plan.dataset.shard_rows)
    for note in _notes(plan):
        on_event(Note("catalog", note, level="warning"))
    did = {"videos_new": 0, "videos_known": plan.num_known, "videos_unreadable": 0}
    skipped: list[SkippedVideo] = []
    num_bytes = num_done = 0
    why_killed = ""
    for start in range(0, len(plan.new), commit_videos):
        videos = plan.new[start : start + commit_videos]
        paths = list(dict.fromkeys(video.path for video in videos))  # parts of a file share one look into it
        found: dict[Place, VideoInfo] = {}
        parts = Counter(video.path for video in videos)
        looked = probe_videos(paths, workers=settings.workers, image_fps=plan.image_fps, files=Files.of(settings))
        for path, info in zip(paths, looked, strict=True):
            found[path] = info
            num_done += parts[path]
            num_bytes += info.num_bytes or 0
            rate = num_done / max(time.monotonic() - started, 1e-9)
            on_event(Progress("catalog", num_done, len(plan.new), {"videos_per_s": rate}))
        infos = [found[video.path] for video in videos]
        annotations = plan.annotations[start : start + commit_videos]
        if killed := sum(info.status == VideoStatus.INTERRUPTED for info in infos):
            # Of these nothing is known, and a row is for good: the next run finds them new again.
            why_killed = why_killed or next(i.error or "" for i in infos if i.status == VideoStatus.INTERRUPTED)
            did["videos_interrupted"] = did.get("videos_interrupted", 0) + killed
            readable = [info.status != VideoStatus.INTERRUPTED for info in infos]
            videos, annotations = tuple(compress(videos, readable)), tuple(compress(annotations, readable))
            infos = list(compress(infos, readable))
        appended = dataset.append_videos(_as_table(videos, infos, annotations))
        did["videos_new"] += appended.num_new
        did["videos_known"] += appended.num_known
        new_rows = list(range(appended.first_row, appended.num_rows))
        added = dataset.lines_of(new_rows)["video_id"].to_pylist()
        row_of = {video_id: appended.first_row + k for k, video_id in enumerate(added)}
        for video, info in zip(videos, infos, strict=True):
            row = row_of.get(video.video_id)  # None: another run was faster
            if info.error and row is not None:
                on_event(VideoFailed("catalog", row, video.video_id, info.status, info.error))
                skipped.append(SkippedVideo(row=row, video_id=video.video_id, status=info.status, error=info.error))
        did["videos_unreadable"] = len(skipped)
    if plan.relabelled:
        changed = dataset.change_labels(plan.relabelled, by=RECIPE)
        did["videos_relabelled"] = changed.num_changed
    _take_again(plan, dataset, settings, did, skipped, on_event)
    fresh = dataset.refresh()
    usable = {"num_usable": _num_usable(fresh)} if fresh.num_videos else {}
    if left_out := did.get("videos_interrupted"):
        text = f"{left_out} videos were left out: {why_killed}; run again to take them in"
        on_event(Note("catalog", text, level="warning"))
    seconds = time.monotonic() - started
    summary = ", ".join(f"{count} {name.removeprefix('videos_')}" for name, count in did.items())
    on_event(StageFinished("catalog", f"{plan.dataset.name}: {summary}", seconds))
    return StageReport(
        stage="catalog",
        recipe=plan.recipe,
        did=did,
        seconds=seconds,
        skipped=tuple(skipped),
        snapshot=fresh.snapshot(),
        details={**usable, "bytes_read": num_bytes, "videos_per_s": num_done / seconds if seconds else 0.0},
    )


def _num_usable(dataset: Dataset) -> int:
    return sum(part["probe_error"].null_count for part in dataset.parts(["probe_error"]))


def _declared(dataset: DatasetBase) -> set[str]:
    """Return the columns that the recipe speaks of; what it says nothing about stays as it is."""
    if not isinstance(dataset, DatasetSpec):
        return set(LABEL_COLUMNS)
    columns: set[str] = set()
    if not isinstance(dataset.labels, NoLabels):
        columns |= {"label", "labels"}
    if not isinstance(dataset.splits, NoSplits):
        columns.add("splits")
    if not isinstance(dataset.group, NoLabels):
        columns.add("group")
    return columns


def _labels(annotation: Annotation) -> dict[str, object]:
    return {"label": annotation.label, "labels": list(annotation.labels), "splits": dict(annotation.splits),
            "group": annotation.group}  # fmt: skip


def _take_again(
    plan: CatalogPlan,
    dataset: Dataset,
    settings: Settings,
    did: dict[str, int],
    skipped: list[SkippedVideo],
    on_event: OnEvent,
) -> None:
    """Look at known files again; write down what they are now, and say which are left as they were."""
    if not plan.to_check:
        return
    found = look_again(plan.to_check, dataset, settings, replace=plan.replace, image_fps=plan.image_fps)
    if found.facts:
        dataset.change_facts(found.facts)
    ids = {known.row: known.video.video_id for known in plan.to_check}
    for row, error in found.errors.items():
        on_event(VideoFailed("catalog", row, ids[row], VideoStatus.UNREADABLE, error))
        skipped.append(SkippedVideo(row=row, video_id=ids[row], status=VideoStatus.UNREADABLE, error=error))
    counts = {"videos_late": len(found.late), "videos_replaced": len(found.replaced),
              "videos_changed": len(found.kept), "videos_interrupted": found.num_interrupted}  # fmt: skip
    for name, count in counts.items():
        if count:
            did[name] = did.get(name, 0) + count
    for text in told(found):
        on_event(Note("catalog", text, level="warning"))


def _notes(plan: CatalogPlan) -> list[str]:
    notes = list(plan.notes)
    if plan.num_gone:
        notes.append(f"{plan.num_gone} videos of the catalogue are not found any more; their rows and features stay")
    if plan.num_relabelled:
        notes.append(
            f"{plan.num_relabelled} known videos come with other labels, splits or groups than the catalogue held "
            f"({plan.relabelled_example}); the new ones count from now on, nothing is extracted again"
        )
    if plan.num_kept_by_hand:
        notes.append(
            f"{plan.num_kept_by_hand} videos keep what `scale label` gave them, though the recipe says otherwise; "
            "`scale label STORE --release` gives them back to it"
        )
    return notes


def _as_table(videos: Sequence[ListedVideo], infos: Sequence[VideoInfo], annotations: Sequence[Annotation]) -> pa.Table:
    rows = [
        {
            "video_id": video.video_id,
            "uri": video.uri,
            **facts_of_part(info, video.start_s, video.end_s),
            "label": annotation.label,
            "labels": list(annotation.labels),
            "splits": list(annotation.splits.items()),
            "group": annotation.group,
        }
        for video, info, annotation in zip(videos, infos, annotations, strict=True)
    ]
    fields = [field for field in CATALOGUE_SCHEMA if field.name not in ("row", "added_at")]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))
