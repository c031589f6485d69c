"""What was run on a dataset: one small sealed JSON file a run, written when it ends, however it ends."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pipeline.errors import CorruptDataError, NotFoundError
from pipeline.fingerprint import canonical_json
from pipeline.storage.backend import StorageBackend
from pipeline.storage.shardfile import crc32c
from pipeline.storage.spare import read_spared, spare_key, spared_keys

FOLDER = "runs"


@dataclass(frozen=True)
class RunRecord:
    """One run, as it was written down."""

    id: str
    recipe: str
    content: Mapping[str, Any]
    """The whole recipe."""
    started_at: str
    """UTC, ISO 8601."""
    seconds: float
    outcome: str
    """done, done in part, interrupted, or the name of the error."""
    did: Mapping[str, Mapping[str, int]]
    """Counts of every stage."""
    snapshot: str
    products: tuple[str, ...]
    """Versions of what stood at its end: ``reports/demo@2``."""
    numbers: tuple[Mapping[str, Any], ...]
    """What its probes said, one mapping a number."""
    who: str
    where: str


def save_run(backend: StorageBackend, dataset: str, record: Mapping[str, Any]) -> str:
    """Write a run down and return its id; `record` holds the fields of :class:`RunRecord` but the id."""
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
    body = json.loads(canonical_json({**record, "id": run_id}))
    key = f"{dataset}/{FOLDER}/{run_id}.json"
    body["place"] = key
    sealed = body | {"seal_crc32c": crc32c(canonical_json(body).encode())}
    data = json.dumps(sealed, indent=1).encode()
    backend.create(key, data)
    backend.put(spare_key(key), data)
    return run_id


def run_keys(backend: StorageBackend, dataset: str) -> list[str]:
    """Return the keys of all records, those of which only the copy is left included."""
    folder = f"{dataset}/{FOLDER}"
    keys = {key for key, _ in backend.list(folder, recursive=False) if key.endswith(".json")}
    return sorted(keys | {key for key in spared_keys(backend, dataset) if key.startswith(f"{folder}/")})


def list_runs(backend: StorageBackend, dataset: str) -> tuple[RunRecord, ...]:
    """Return every run of a dataset, the oldest first.

    Raises
    ------
    CorruptDataError
        If a record is not what was written.
    """
    found = []
    for key in run_keys(backend, dataset):
        try:
            found.append(read_spared(backend, key, partial(parse_run, key=key)))
        except NotFoundError:
            continue
    return tuple(sorted(found, key=lambda run: (run.started_at, run.id)))


def names_its_place(raw: bytes) -> bool:
    """Whether a record was written with a copy; earlier ones were not."""
    try:
        return "place" in json.loads(raw)
    except ValueError:
        return False


def parse_run(raw: bytes, key: str) -> RunRecord:
    """Return the record that was written under a key.

    Raises
    ------
    CorruptDataError
        If it is another one, or not what was written.
    """
    try:
        body = json.loads(raw)
        if body.pop("seal_crc32c") != crc32c(canonical_json(body).encode()):
            raise ValueError("its seal does not hold")
        if body.pop("place", key) != key:
            raise ValueError("it is another run's")
        return RunRecord(**{**body, "products": tuple(body["products"]), "numbers": tuple(body["numbers"])})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise CorruptDataError(f"{key}: expected the record of a run, found: {err}; remove the file") from err
