"""The crc32c of rows that lie one after another, from the crc32c of each: a whole run is checked by one pass over it.

A crc is linear: each bit of the run's checksum is a sum (without carry) of certain bits of the rows' checksums, and
which of a row's bits these are depends on the number of bytes behind the row alone. They are kept as masks: 32 of them
say what a checksum becomes when bytes follow, and 32 a row say what the checksum of the run is.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, reflected."""
_PLACES = np.arange(32, dtype=np.uint32)
_NOTHING = np.uint32(0)


def joined_crc32c(checksums: np.ndarray, row_bytes: int) -> np.ndarray:
    """Return the crc32c of rows as one run of bytes.

    Parameters
    ----------
    checksums : ndarray of shape (..., n), uint32
        Of each row of each run, in their order.
    row_bytes : int
        Bytes of every row.

    Returns
    -------
    ndarray of shape (...), uint32
    """
    n = checksums.shape[-1]
    masks = _masks(row_bytes, max(n - 1, 0).bit_length())
    found = np.bitwise_xor.reduce(masks[:, masks.shape[1] - n :] & checksums[..., None, :], axis=-1)
    return np.packbits(np.bitwise_count(found) & 1, axis=-1, bitorder="little").view("<u4")[..., 0]


@lru_cache(maxsize=64)
def _masks(row_bytes: int, log2_rows: int) -> np.ndarray:
    """Return which bits of each of so many rows' checksums go into each bit of the run's, (32, rows), last row last."""
    masks, behind = (np.uint32(1) << _PLACES)[:, None], _followed_by(row_bytes)
    for _ in range(log2_rows):
        masks = np.concatenate([_chained(masks, behind), masks], axis=1)
        behind = _chained(behind, behind)  # twice as many bytes
    return masks


def _chained(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Return the masks, (32, n), of doing what `first`, (32, n), stands for, and then what `then`, (32, 1), does."""
    is_in = (then >> _PLACES & 1).astype(bool)
    return np.bitwise_xor.reduce(np.where(is_in[:, :, None], first[None], _NOTHING), axis=1)


def _followed_by(num_bytes: int) -> np.ndarray:
    """Return what so many bytes behind it make of a checksum, (32, 1) uint32."""
    masks = (np.uint32(1) << _PLACES)[:, None]
    for power in range(num_bytes.bit_length()):
        if num_bytes >> power & 1:
            masks = _chained(masks, _followed_by_power(power))
    return masks


@lru_cache(maxsize=64)
def _followed_by_power(power: int) -> np.ndarray:
    """Return what ``2**power`` bytes behind it make of a checksum."""
    if power:
        half = _followed_by_power(power - 1)
        return _chained(half, half)
    is_tapped = np.uint32(_POLYNOMIAL) >> _PLACES & 1
    masks = (np.append(np.uint32(1) << _PLACES[1:], _NOTHING) | is_tapped)[:, None]  # one bit behind it
    for _ in range(3):
        masks = _chained(masks, masks)
    return masks
