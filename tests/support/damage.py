"""A small store with one of every kind of file, ways to damage it, and what must hold whatever was damaged.

Values are a function of a video's id, never of its row, so that features under another video's id are noticed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline import FeatureStore, RowStatus
from pipeline.errors import CorruptDataError, NotFoundError, PipelineError
from pipeline.recipe import RandomPolicy
from pipeline.storage.backend import StorageBackend
from pipeline.storage.backend_local import Disk
from pipeline.storage.schema import PENDING
from pipeline.store.compact import compact_store
from pipeline.store.dataset import Dataset
from pipeline.store.facts import FACT_COLUMNS
from pipeline.store.kept_embeddings import keep_embeddings
from pipeline.store.previews import Preview
from pipeline.store.runs import list_runs, save_run
from tests.support.toy_stores import geometry_of

V, D, E, SHARD_ROWS = 2, 3, 2, 3
NUM_RUNS = 2
RUN = {"recipe": "r", "content": {}, "started_at": "2026-01-01T00:00:00", "outcome": "done", "did": {}, "snapshot": "",
       "products": [], "numbers": [], "who": "w", "where": "h"}  # fmt: skip
FEATURES = {"a": ("f", "g"), "b": ("f",)}
DATASETS = {"toy": 5, "other": 1}
STEPS = ({"toy": 2}, {"toy": 4}, DATASETS)
"""The runs that a whole store has behind it."""
ARTIFACTS = {("models", "m"): {"weights.bin": b"w" * 40, "note.txt": b"n"}, ("indexes", "i"): {"flat.bin": b"i" * 30},
             ("reports", "r"): {"report.json": b"{}"}}  # fmt: skip
REPLACED = {"toy": 0}
"""Dataset -> number of a video whose file was catalogued again; its features are the new file's."""
LABELLED = {"toy": 1}
"""Dataset -> number of a video whose label was given later."""
PREVIEWED = ("toy",)
"""Datasets with small pictures."""
WAYS = ("flip", "truncate", "swap", "delete", "restore", "duplicate", "empty", "garbage")


class NoSync(Disk):
    """A disk that is not waited for: thousands of rounds, no power loss."""

    def fsync(self, fd: int) -> None:
        pass


def id_of(dataset: str, n: int) -> str:
    return f"{dataset}/{n:03d}.mp4"


def numbers_of(dataset: Dataset) -> np.ndarray:
    return np.array([int(video_id[-7:-4]) for video_id in dataset.videos["video_id"].to_pylist()], np.int64)


def values_of(numbers: np.ndarray, name: str) -> np.ndarray:
    salt = sum(map(ord, name))
    return (numbers[:, None, None] * 4 + salt + np.arange(V * D).reshape(V, D) / 8).astype(np.float16)


def embedding_of(numbers: np.ndarray) -> np.ndarray:
    return (numbers[:, None] + np.arange(E) / 4).astype(np.float32)


def marks_of(dataset: Dataset) -> np.ndarray:
    """Return what values are made of: the video's number, another one where its file was catalogued again."""
    marks = numbers_of(dataset)
    marks[list(dataset.looked_at())] += 100
    return marks


def settle(store: FeatureStore) -> None:
    """Leave what a longer life leaves: labels, facts, records of runs, older embeddings, packs, an index of ids."""
    for name, number in LABELLED.items():
        dataset = store.dataset(name)
        dataset.change_labels({dataset.row_of(id_of(name, number)): {"label": "late"}})
    for name, number in REPLACED.items():
        dataset = store.dataset(name)
        row = dataset.row_of(id_of(name, number))
        facts = dataset.by_row.select(FACT_COLUMNS).slice(row, 1).to_pylist()[0]
        dataset.change_facts({row: facts | {"sha256": "f" * 64, "codec": "again"}})
    work(store, {name: store.dataset(name).num_rows for name in store.datasets()})
    for name in store.datasets():
        for number in range(2):
            save_run(store.backend, name, RUN | {"seconds": float(number)})
        keep_embeddings(store.dataset(name), "e")


def videos(dataset: str, stop: int) -> pa.Table:
    """The videos of a dataset, the last one first: who gives rows away by the order of a listing is noticed."""
    numbers = [stop - 1, *range(stop - 1)]
    return pa.table({"video_id": [id_of(dataset, n) for n in numbers], "sha256": [f"{n:064d}" for n in numbers]})


def work(store: FeatureStore, num_videos: Mapping[str, int] | None = None) -> None:
    """Do what is missing: what catalog, extract, train, embed, index and probe do, in a moment."""
    for name, stop in (DATASETS if num_videos is None else num_videos).items():
        dataset = store.create_dataset(name, shard_rows=SHARD_ROWS)
        dataset.append_videos(videos(name, stop))
        for crops, feature_sets in FEATURES.items():
            dataset.define_crop_set(crops, RandomPolicy(policy="random", num_crops=V, seed=ord(crops)))
            for feature_set in feature_sets:
                _extract(dataset, crops, feature_set)
        _embed(store.dataset(name))
        _save(store.dataset(name))
        if name in PREVIEWED:
            _preview(store.dataset(name))


def _preview(dataset: Dataset) -> None:
    strips = {row: strip_of(mark) for row, mark in enumerate(marks_of(dataset).tolist())}
    seen = {}
    for row in strips:
        with suppress(CorruptDataError):
            seen[row] = dataset.preview(row)
    dataset.save_previews({row: strip for row, strip in strips.items() if seen.get(row) != strip})


def strip_of(mark: int) -> Preview:
    return Preview((0.0, 0.5), f"strip of {mark}".encode())


def _extract(dataset: Dataset, crops: str, feature_set: str) -> None:
    writer = dataset.writer(crops, feature_set, {"backbone": f"{crops}{feature_set}"}, D)
    numbers = marks_of(dataset)
    for task in writer.todo():
        lines = [RowStatus(row, "ok") for row in task.rows.tolist()]
        values = values_of(numbers[task.rows], f"{crops}{feature_set}")
        valid = np.ones((len(task), V), bool)
        writer.write(task, values, valid, geometry_of(numbers[task.rows], V), lines)


def _embed(dataset: Dataset) -> None:
    writer = dataset.embedding_writer("e", {"model": "m"}, E)
    numbers = marks_of(dataset)
    for task in writer.todo():
        lines = [RowStatus(row, "ok") for row in task.rows.tolist()]
        writer.write(task, embedding_of(numbers[task.rows]), np.ones(len(task), bool), lines)


def _save(dataset: Dataset) -> None:
    for (kind, name), files in ARTIFACTS.items():
        try:
            if all(dataset.artifact(kind, name).read(file) == data for file, data in files.items()):
                continue
        except PipelineError:
            pass
        dataset.save_artifact(kind, name, files, {"made": 1})


@dataclass
class Pristine:
    """All files of a whole store, and what some of them were before."""

    files: dict[str, bytes]
    older: dict[str, list[bytes]] = field(default_factory=dict)

    @classmethod
    def make(
        cls, backend: StorageBackend, steps: Sequence[Mapping[str, int]] = STEPS, *, long_lived: bool = False
    ) -> Pristine:
        """Build a store in some runs; each replaces the artifacts of `toy`. `long_lived`: see :func:`settle`."""
        store = FeatureStore.create(backend)
        states = []
        for step in steps:
            work(store, step)
            for (kind, name), files in ARTIFACTS.items():
                store.dataset("toy").save_artifact(kind, name, files, {"made": len(states)})
            if step is steps[-1] and long_lived:
                compact_store(store, min_loose=1, min_ids=1)  # what comes after lies in files of its own
                states.append({key: backend.read(key) for key, _ in backend.list()})
                settle(store)
            states.append({key: backend.read(key) for key, _ in backend.list()})
        made = cls(states[-1])
        for state in states[:-1]:
            for key, data in state.items():
                if key in made.files and data != made.files[key]:
                    made.older.setdefault(key, []).append(data)
        return made

    def put(self, backend: StorageBackend) -> None:
        for key, data in self.files.items():
            backend.put(key, data)


def kind_of(key: str) -> str:
    """The kind of a file, for the table."""
    parts = ["", *key.split("/")]
    if "_copies" in parts:
        return "catalogue copy" if "catalog" in parts else "pack copy" if "ledger" in parts else "metadata copy"
    if parts[-1] == "zarr.json":
        plain = key.endswith(("/crops/zarr.json", "/features/zarr.json", "/embeddings/zarr.json"))
        array = parts[-2] in ("values", "valid", "geometry")
        return "array zarr.json" if array else "plain group zarr.json" if plain else "group zarr.json"
    if "ledger" in parts:
        return "ledger pack" if "packs" in parts else "ledger entry"
    if "catalog" in parts:
        kind = parts[-1].partition("-")[0]
        return {"videos": "catalogue commit", "ids": "index of ids"}.get(kind, "labels or facts")
    if parts[-2] == "previews":
        return "previews"
    if parts[-2] == "runs":
        return "record of a run"
    if parts[-1] == "meta.json":
        return "artifact meta.json"
    if parts[-1].startswith("meta-"):
        return "older description"
    if parts[-1].startswith("c."):
        return f"{parts[-2]} shard"
    return "artifact file"


def damage(backend: StorageBackend, pristine: Pristine, rng: random.Random) -> tuple[str, str]:
    """Damage one file in one way (a swap: two); return the way and the key."""
    way = rng.choice(WAYS)
    kinds: dict[str, list[str]] = {}
    for key in pristine.older if way == "restore" else pristine.files:
        kinds.setdefault(kind_of(key), []).append(key)
    key = rng.choice(kinds[rng.choice(sorted(kinds))])
    data = bytearray(pristine.files[key])
    if way == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif way == "truncate":
        del data[rng.randrange(len(data)) :]
    elif way == "empty":
        data.clear()
    elif way == "garbage":
        data[:] = rng.randbytes(len(data))
    elif way == "restore":
        data[:] = rng.choice(pristine.older[key])
    elif way == "delete":
        backend.delete(key)
        return way, key
    elif way == "swap":
        other = rng.choice([k for k in pristine.files if kind_of(k) == kind_of(key)])
        backend.put(other, bytes(data))
        data[:] = pristine.files[other]
    elif way == "duplicate":
        target = _sibling(key, pristine, rng)
        backend.put(target, bytes(data))
        return way, key
    backend.put(key, bytes(data))
    return way, key


def _sibling(key: str, pristine: Pristine, rng: random.Random) -> str:
    """Another name in the same folder: a number that is free or taken, or a name of a person's."""
    folder, _, name = key.rpartition("/")
    start = f"{folder}/" if folder else ""
    digits = [i for i, c in enumerate(name) if c.isdigit()]
    if digits and rng.random() < 0.7:
        at = rng.choice(digits)
        return f"{start}{name[:at]}{rng.randrange(10)}{name[at + 1 :]}"
    others = [k for k in pristine.files if kind_of(k) == kind_of(key)]
    return rng.choice([f"{start}{name}.bak", f"{start}copy of {name}", rng.choice(others)])


@dataclass
class Reading:
    """What reading everything came to."""

    refusals: list[str] = field(default_factory=list)
    pending: int = 0
    faults: list[str] = field(default_factory=list)
    """Wrong values, rows under other ids, things left out without a word: none is ever allowed."""
    long_lived: bool = False

    @property
    def is_whole(self) -> bool:
        return not (self.refusals or self.pending or self.faults)


def read_everything(backend: StorageBackend, *, with_sql: bool = False, long_lived: bool = False) -> Reading:
    """Read all there is as people do, and hold it to what must be there."""
    found = Reading(long_lived=long_lived)
    try:
        store = FeatureStore.open(backend)
        names = store.datasets()
    except PipelineError as err:
        found.refusals.append(str(err))
        return found
    if set(names) < set(DATASETS):
        found.faults.append(f"datasets {names}")
    for name in set(names) & set(DATASETS):
        try:
            _read_dataset(store, name, found)
            if with_sql:
                _ask(store, name, found)
        except PipelineError as err:
            found.refusals.append(str(err))
    return found


def _read_dataset(store: FeatureStore, name: str, found: Reading) -> None:
    dataset = store.dataset(name)
    numbers = marks_of(dataset)
    if len(numbers) != DATASETS[name]:
        found.faults.append(f"{name}: {len(numbers)} videos")
    if found.long_lived:
        _read_beside(store, dataset, found)
    if not set(FEATURES) <= set(dataset.crop_sets()) or "e" not in dataset.embedding_sets():
        found.faults.append(f"{name}: sets {dataset.crop_sets()}, {dataset.embedding_sets()}")
    for crops, feature_sets in FEATURES.items():
        if not set(feature_sets) <= set(dataset.feature_sets(crops)):
            found.faults.append(f"{name}: feature sets of {crops}: {dataset.feature_sets(crops)}")
        for feature_set in feature_sets:
            with _refusals(found):
                status = dataset.status(crops, feature_set)["status"].to_pylist()
                block = dataset.select().features(crops, feature_set)
                right = values_of(numbers, f"{crops}{feature_set}")
                _compare(f"{name}/{crops}/{feature_set}", status, block.values, block.valid.all(axis=1), right, found)
                boxes = geometry_of(numbers, V)
                if not np.array_equal(block.geometry[block.valid.all(axis=1)], boxes[block.valid.all(axis=1)]):
                    found.faults.append(f"{name}/{crops}: geometry")
    for embedding in ("e", "e@1") if found.long_lived else ("e",):
        with _refusals(found):
            status = dataset.embedding_status(embedding)["status"].to_pylist()
            vectors = dataset.select().embeddings(embedding)
            _compare(f"{name}/{embedding}", status, vectors.values, vectors.valid, embedding_of(numbers), found)
    for (kind, artifact), files in ARTIFACTS.items():
        with _refusals(found):
            opened = dataset.artifact(kind, artifact)
            if any(opened.read(file) != data for file, data in files.items()):
                found.faults.append(f"{name}/{kind}: other bytes")


def _read_beside(store: FeatureStore, dataset: Dataset, found: Reading) -> None:
    """Read what lies beside the arrays: later labels and facts, records of runs."""
    lines = {line["video_id"]: line for line in dataset.videos.to_pylist()}
    for number in (n for name, n in LABELLED.items() if name == dataset.name):
        if lines.get(id_of(dataset.name, number), {}).get("label") != "late":
            found.faults.append(f"{dataset.name}: the label of video {number} is gone")
    for number in (n for name, n in REPLACED.items() if name == dataset.name):
        if lines.get(id_of(dataset.name, number), {}).get("codec") != "again":
            found.faults.append(f"{dataset.name}: the facts of video {number} are gone")
    if dataset.name in PREVIEWED:
        for row, mark in enumerate(marks_of(dataset).tolist()):
            with _refusals(found):
                shown = dataset.preview(row)  # none: pages ask the video for its frames then
                if shown is not None and shown != strip_of(mark):
                    found.faults.append(f"{dataset.name}: a picture of another video in row {row}")
    with _refusals(found):
        if len(list_runs(store.backend, dataset.name)) != NUM_RUNS:
            found.faults.append(f"{dataset.name}: records of runs are gone")


def _ask(store: FeatureStore, name: str, found: Reading) -> None:
    with _refusals(found):
        table = store.sql(f"SELECT video_id, count(*) AS n FROM {name}.ledger GROUP BY video_id")
        if len(table) != DATASETS[name] or set(table["n"].to_pylist()) != {sum(map(len, FEATURES.values()))}:
            found.faults.append(f"{name}: SQL leaves something out")


def _compare(
    what: str, status: list[str], values: np.ndarray, valid: np.ndarray, right: np.ndarray, found: Reading
) -> None:
    for row, text in enumerate(status):
        if text == PENDING:
            found.pending += not what.endswith("@1")  # an older version is never made again
            if valid[row] or values[row].any():
                found.faults.append(f"{what}: pending row {row} has values")
        elif not valid[row]:
            found.faults.append(f"{what}: row {row} is {text} and left out")
        elif not np.array_equal(values[row], right[row]):
            found.faults.append(f"{what}: wrong values in row {row}")


class _refusals(suppress):
    """Note an error of this project as an answer that says so."""

    def __init__(self, found: Reading) -> None:
        super().__init__(PipelineError)
        self._found = found

    def __exit__(self, kind, error, trace):  # type: ignore[no-untyped-def]
        if isinstance(error, PipelineError):
            self._found.refusals.append(f"{'gone: ' if isinstance(error, NotFoundError) else ''}{error}")
        return super().__exit__(kind, error, trace)
