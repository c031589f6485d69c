"""Sealed files that somebody forged, seal and all: read, or refused as damage; never any other error."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import hypothesis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from pipeline import FeatureStore
from pipeline.errors import FormatError
from pipeline.sets.ledger import Ledger
from pipeline.sets.ledger_entry import LedgerEntry
from pipeline.storage.backend_local import LocalBackend
from pipeline.storage.parquet import ParquetPieces
from pipeline.storage.sealed import check_seal, resealed
from pipeline.store.commits import parse_commit
from pipeline.store.compact import compact_store
from pipeline.store.id_index import IndexFile
from tests.support.damage import NoSync, work

LEDGER = "toy/crops/a/ledger/f"
KINDS = ("ledger entry", "catalogue commit", "labels", "pack", "ids")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> LocalBackend:
    backend = LocalBackend(tmp_path_factory.mktemp("sealed") / "s", NoSync())
    store = FeatureStore.create(backend)
    work(store, {"toy": 2})
    work(store, {"toy": 4})
    backend.put("entry", backend.read(f"{LEDGER}/0-0.parquet"))
    compact_store(store, min_loose=1, min_ids=1)
    store.dataset("toy").change_labels({0: {"label": "x"}})
    return backend


def read_as(kind: str, backend: LocalBackend, data: bytes, folder: Path) -> object:
    """Read bytes as what a file of this kind is read as."""
    if kind == "ledger entry":
        return LedgerEntry.decode(data, what="entry").content_id
    if kind == "catalogue commit":
        return parse_commit(data, "toy", 0, what="commit").stop
    forged = LocalBackend(folder, NoSync())
    key = {"labels": "toy/catalog/labels-0.parquet", "pack": f"{LEDGER}/packs/0.parquet",
           "ids": "toy/catalog/packs/ids-0.parquet"}[kind]  # fmt: skip
    forged.put(key, data)
    if kind == "ids":
        return IndexFile(forged, "toy", 0).whole.rows.sum()
    if kind == "labels":
        from pipeline.store.labels import open_labels

        return open_labels(forged, "toy").state.num_rows
    return [entry.content_id for entry in Ledger(forged, LEDGER, binding=None).entries()]


def whole_of(kind: str, backend: LocalBackend) -> bytes:
    """Return the bytes of a file of this kind that is whole."""
    key = {"ledger entry": "entry", "catalogue commit": "toy/catalog/videos-0.parquet",
           "labels": "toy/catalog/labels-0.parquet", "pack": f"{LEDGER}/packs/0.parquet",
           "ids": "toy/catalog/packs/ids-0.parquet"}[kind]  # fmt: skip
    return backend.read(key)


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.settings(max_examples=12, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(data=st.data())
def test_any_bytes_under_a_seal_that_holds_are_read_or_damage(
    packed: LocalBackend, tmp_path: Path, kind: str, data: Any
) -> None:
    forged = bytearray(whole_of(kind, packed))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(forged) - 1))
        forged[at : at + data.draw(st.integers(1, 4))] = data.draw(st.binary(max_size=6))
    try:
        sealed = resealed(bytes(forged))
        check_seal(sealed, what=kind)
    except FormatError:
        sealed = bytes(forged)  # its mark was hit
    try:
        outcome: Any = read_as(kind, packed, sealed, tmp_path) is not None
    except FormatError as error:
        outcome = str(error)
    assert outcome


def test_words_of_a_footer_that_are_no_text_are_read_as_such() -> None:
    sink = io.BytesIO()
    table = pa.table({"a": [1]})
    with pq.ParquetWriter(sink, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({b"\x80kind": b"\xff"})
    assert (
        ParquetPieces(io.BytesIO(sink.getvalue())).metadata["\N{REPLACEMENT CHARACTER}kind"]
        == "\N{REPLACEMENT CHARACTER}"
    )
