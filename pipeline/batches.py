"""Batches for training (thin; see README)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.reader import SetReader
from pipeline.selection import FeatureBlock, Mode, allocate


def iterate(
    reader: SetReader, rows: np.ndarray, *, batch_size: int, shuffle: bool, seed: int, epoch: int, mode: Mode,
    drop_last: bool, out: FeatureBlock | None, start_batch: int, block_bytes: int | None,
) -> Iterator[FeatureBlock]:  # fmt: skip
    """Yield every row once."""
    order = np.random.default_rng([seed, epoch]).permutation(len(rows)) if shuffle else np.arange(len(rows))
    for start in range(start_batch * batch_size, len(rows), batch_size):
        picked = np.sort(rows[order[start : start + batch_size]])
        if drop_last and len(picked) < batch_size:
            return
        arrays = (
            allocate(reader, len(picked))
            if out is None
            else {
                "values": out.values[: len(picked)],
                "valid": out.valid[: len(picked)],
                "geometry": out.geometry[: len(picked)],
            }
        )
        reader.read(picked, arrays)
        yield FeatureBlock(arrays["values"], arrays["valid"], arrays["geometry"], picked)
