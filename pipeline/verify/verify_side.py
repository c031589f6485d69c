"""Checking what stands beside the catalogue: side files and copies, unfinished erasures, ledgers of deleted sets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from pipeline.errors import CorruptDataError, FormatError, NotFoundError, UnsafeNameError
from pipeline.storage.backend import StorageBackend
from pipeline.storage.parquet import read_parquet
from pipeline.storage.sealed import check_seal
from pipeline.storage.spare import keep, set_aside
from pipeline.store.catalogue import Catalogue
from pipeline.store.dropping import clear_leftover_ledger, leftover_ledgers
from pipeline.store.facts import FACTS, open_facts
from pipeline.store.labels import LABELS, open_labels
from pipeline.store.removals import REMOVED, open_removals
from pipeline.store.rows import SideState
from pipeline.store.side_files import SideFiles, side_counts, side_key, side_numbers
from pipeline.store.withdrawal import leftovers, unfinished

Found = Callable[..., None]
"""``found(kind, where, what, repaired)``."""


def check_side_files(backend: StorageBackend, dataset: str, found: Found, *, repair: bool) -> None:
    """Hold every side file and its copy to their seals, and put one back from the other."""
    _check_strays(backend, dataset, found, repair=repair)
    try:
        counts = side_counts(backend, dataset, (LABELS, FACTS, REMOVED))
    except CorruptDataError as err:
        found("damaged catalogue", f"{dataset}/catalog", str(err))
        return
    openers = {LABELS: open_labels, FACTS: open_facts, REMOVED: open_removals}
    for kind, count in counts.items():
        files = openers[kind](backend, dataset, count)
        for number in range(count):
            _check_file(backend, dataset, files, number, found, repair=repair)
    try:
        for _ in SideState(backend, dataset).parts(Catalogue(backend, dataset), ["row", "video_id"], max_kept=0):
            pass  # every line is held to the video in its row
    except FormatError as err:
        found("damaged catalogue", f"{dataset}/catalog", str(err))


def _check_strays(backend: StorageBackend, dataset: str, found: Found, *, repair: bool) -> None:
    """Name whole files under a number that is not theirs, where nothing that is that number's is left."""
    for kind, numbers in side_numbers(backend, dataset, (LABELS, FACTS, REMOVED)).items():
        for number in sorted(numbers):
            expected = (kind, dataset, str(number))
            keys = [side_key(dataset, kind, number, copy=copy) for copy in (False, True)]
            said = {key: what for key in keys if (what := _says(backend, key)) is not None}
            if expected in said.values():
                continue
            for key, (other, of, at) in said.items():
                fixed = f"set aside as {set_aside(backend, key)}" if repair else ""
                found("damaged catalogue", key, f"{other} file {at} of dataset {of}, put under another name", fixed)


def _says(backend: StorageBackend, key: str) -> tuple[str, str, str] | None:
    """Return which file a sealed one says that it is: kind, dataset, number. None where there is none that is whole."""
    try:
        data = backend.read(key)
        check_seal(data, what=key)
        metadata = read_parquet(data).schema.metadata or {}
    except (NotFoundError, CorruptDataError, UnsafeNameError, pa.ArrowException, OSError):
        return None
    kind, dataset, number = (metadata.get(name, b"").decode() for name in (b"kind", b"dataset", b"number"))
    return kind, dataset, number


def _check_file(
    backend: StorageBackend, dataset: str, files: SideFiles, number: int, found: Found, *, repair: bool
) -> None:
    try:
        good = files.data(number)
    except CorruptDataError as err:
        found("damaged catalogue", side_key(dataset, files.kind, number), str(err))
        return
    for copy in (False, True):
        key = side_key(dataset, files.kind, number, copy=copy)
        try:
            if backend.read(key) == good:
                continue
            what = "bytes that differ from the other copy, or that no seal holds"
        except NotFoundError:
            what = "expected a file, found none"
        if repair:
            keep(backend, key)
            backend.put(key, good)
        found("damaged catalogue", key, what, "restored from its copy" if repair else "")


def check_removals(backend: StorageBackend, dataset: str, found: Found) -> None:
    """Name what removed videos still hold: of an erasure that was not finished, or that something undid."""
    begun = unfinished(backend, dataset)
    state = open_removals(backend, dataset).state
    erased = state["row"].to_numpy()[np.array(state["erased"].to_pylist(), bool)].astype(np.int64)
    for rows, kind in ((begun, "unfinished erasure"), (erased, "erased rows are back")):
        if len(rows):
            for where in leftovers(backend, dataset, rows):
                found(kind, where, f"holds something of {len(rows)} removed video(s); `scale remove STORE --erase`")
    if len(begun):
        what = f"{len(begun)} removed video(s) are not erased yet; `scale remove STORE --erase` goes on"
        found("unfinished erasure", f"{dataset}/catalog", what)


def check_leftover_ledgers(backend: StorageBackend, dataset: str, found: Found, *, repair: bool) -> None:
    """Name ledgers whose feature set is gone, arrays and all: their entries call features done that nobody has."""
    for crops, name in leftover_ledgers(backend, dataset):
        ledger, folder = f"{dataset}/crops/{crops}/ledger/{name}", f"{dataset}/crops/{crops}/features/{name}"
        count = clear_leftover_ledger(backend, ledger, folder) if repair else 0
        what = f"ledger of a feature set that is not there; `scale remove STORE --features {crops}/{name}` deletes it"
        found("orphan", ledger, what, f"{count} files deleted" if repair else "")
