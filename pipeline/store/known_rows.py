"""Which rows the rest of a dataset knows: nothing may be added to a catalogue that ends before them."""

from __future__ import annotations

from pipeline.errors import CorruptDataError, NotFoundError, SnapshotChangedError
from pipeline.sets.arrays import read_layout
from pipeline.sets.ledger import Ledger
from pipeline.storage import schema
from pipeline.storage.backend import StorageBackend


def known_rows(backend: StorageBackend, dataset: str) -> dict[str, int]:
    """Return, for every ledger and array of a dataset, the row after the last that it knows.

    Look at the catalogue after this, not before: then rows of an append that goes on meanwhile are in both.
    """
    found: dict[str, int] = {}
    for crops in backend.folders(f"{dataset}/crops"):
        folder = schema.crop_set_key(dataset, crops)
        for name in backend.folders(f"{folder}/ledger"):
            ledger = schema.feature_ledger_key(dataset, crops, name)
            found[f"the ledger {ledger}"] = ledger_stop(Ledger(backend, ledger, binding=None))
        arrays = [
            f"{folder}/geometry",
            *(f"{folder}/features/{n}/values" for n in backend.folders(f"{folder}/features")),
        ]
        found |= {f"the array {array}": array_rows(backend, array) for array in arrays}
    for name in backend.folders(f"{dataset}/embeddings"):
        ledger = schema.embedding_ledger_key(dataset, name)
        found[f"the ledger {ledger}"] = ledger_stop(Ledger(backend, ledger, binding=None))
        array = f"{schema.embedding_set_key(dataset, name)}/values"
        found[f"the array {array}"] = array_rows(backend, array)
    return found


def ledger_stop(ledger: Ledger) -> int:
    """Return the row after the last that a ledger knows; 0 where its last entry cannot be read."""
    if not ledger.generations:
        return 0
    try:
        entry = ledger.entry(max(ledger.generations))
    except (CorruptDataError, SnapshotChangedError):
        return 0  # a damaged entry knows nothing; verify names it
    return 0 if entry is None else entry.row_stop


def array_rows(backend: StorageBackend, array: str) -> int:
    """Return how many rows an array says it has; 0 where it says nothing."""
    try:
        return read_layout(backend, array)[1]
    except (CorruptDataError, NotFoundError):
        return 0
