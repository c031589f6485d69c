"""One checksum over many rows is what theirs together say, and nothing that differs passes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.storage.crc_runs import joined_crc32c
from pipeline.storage.shardfile import crc32c, row_checksums


@settings(deadline=None, max_examples=40)
@given(num_rows=st.integers(0, 300), row_bytes=st.integers(1, 700), seed=st.integers(0, 1000))
def test_the_checksums_of_rows_are_joined_to_that_of_the_run(num_rows: int, row_bytes: int, seed: int) -> None:
    rows = np.random.default_rng(seed).integers(0, 256, (num_rows, row_bytes), np.uint8)
    assert joined_crc32c(row_checksums(rows), row_bytes) == crc32c(rows.tobytes())


@pytest.mark.parametrize("row", [0, 100, 255])
def test_one_other_bit_or_two_rows_in_another_order_are_another_run(row: int) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (256, 36), np.uint8)
    joined = joined_crc32c(row_checksums(rows), 36)
    flipped = rows.copy()
    flipped[row, 7] ^= 4
    swapped = rows.copy()
    swapped[[row, 50]] = rows[[50, row]]
    assert joined not in (crc32c(flipped.tobytes()), crc32c(swapped.tobytes()))
