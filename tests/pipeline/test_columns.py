"""Columns as arrays and back; and what a process that only looks a video up need not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.storage.columns import column_of, no_lines, texts_of, values_of
from pipeline.storage.schema import CATALOGUE_SCHEMA, LEDGER_SCHEMA
from tests.support.stores import CROPS, FEATURE_SET, make_store


@pytest.mark.parametrize("kind", ["int32", "int64", "uint32", "uint64"])
def test_numbers_come_back_from_columns_in_pieces_and_slices(kind: str) -> None:
    numbers = np.arange(12).astype(kind)
    column = column_of(numbers)
    assert column.to_pylist() == numbers.tolist()
    assert str(column.type) == kind
    pieces = pa.chunked_array([column.slice(0, 3), column.slice(3, 0), column.slice(3, 9)])
    for found, wanted in [
        (column, numbers),
        (column.slice(5, 4), numbers[5:9]),
        (pieces, numbers),
        (pieces.slice(2, 3), numbers[2:5]),
        (pieces.slice(0, 0), numbers[:0]),
        (pa.chunked_array([], column.type), numbers[:0]),
    ]:
        assert values_of(found).dtype == numbers.dtype
        np.testing.assert_array_equal(values_of(found), wanted)
    assert column_of(numbers[::3]).to_pylist() == numbers[::3].tolist()


def test_an_array_outlives_its_column_and_leaves_it_alone() -> None:
    found = values_of(pa.table({"a": list(range(1000))})["a"])
    assert found.tolist() == list(range(1000))
    assert not found.flags.writeable


def test_other_columns_are_left_to_arrow() -> None:
    np.testing.assert_array_equal(values_of(pa.array([1, None, 3])), [1, np.nan, 3])
    assert values_of(pa.chunked_array([["a", "b"]])).tolist() == ["a", "b"]


@pytest.mark.parametrize("texts", [[], ["a"], ["", "für", "日本", "b" * 1000]])
def test_texts_are_arrows(texts: list[str]) -> None:
    assert texts_of(texts).equals(pa.array(texts, pa.string()))
    texts_of(texts).validate(full=True)


@pytest.mark.parametrize("schema", [LEDGER_SCHEMA, CATALOGUE_SCHEMA])
def test_no_lines_is_arrows_empty_table(schema: pa.Schema) -> None:
    assert no_lines(schema).equals(schema.empty_table())
    assert no_lines(schema).schema.equals(schema)


def test_to_look_a_video_up_imports_nothing_large(tmp_path: Path) -> None:
    """Pandas alone takes a third of a second, and Arrow imports it wherever it is installed."""
    video_id = make_store(tmp_path / "s").dataset("toy").videos["video_id"][9].as_py()
    code = f"""
import sys
from pipeline import FeatureStore
ds = FeatureStore.open({str(tmp_path / "s")!r}).dataset("toy")
found = ds.select(video_ids=[{video_id!r}])
assert found.features({CROPS!r}, {FEATURE_SET!r}).valid.any()
print(*sorted({{"pandas", "pydantic", "zarr", "duckdb", "torch", "asyncio"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
