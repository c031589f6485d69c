"""The crc32c of rows that lie one after another, from the crc32c of each: a whole run is checked by one pass over it.

A crc is linear: each bit of a row's checksum changes that of the run in a way that depends on the number of bytes
behind the row alone. So the checksum of the run is the sum (without carry) of what the bits of all rows bring.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, reflected."""
_BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)


def joined_crc32c(checksums: np.ndarray, row_bytes: int) -> int:
    """Return the crc32c of rows as one run of bytes.

    Parameters
    ----------
    checksums : ndarray of shape (n,), uint32
        Of each row, in their order.
    row_bytes : int
        Bytes of every row.
    """
    n = len(checksums)
    bits = np.unpackbits(checksums.astype("<u4").view(np.uint8), bitorder="little").view(bool)
    brought = _brought(row_bytes, max(n - 1, 0).bit_length())
    return int(np.bitwise_xor.reduce(np.where(bits, brought[len(brought) - len(bits) :], np.uint32(0))))


@lru_cache(maxsize=64)
def _brought(row_bytes: int, log2_rows: int) -> np.ndarray:
    """Return what each bit of each of so many rows brings, flat, the last row last."""
    brought, images = _BITS, _images(row_bytes)
    for _ in range(log2_rows):
        behind = _tables(images)
        brought = np.concatenate([_moved(brought, behind), brought])
        images = _moved(images, behind)  # twice as many bytes
    return brought


def _moved(checksums: np.ndarray, tables: np.ndarray) -> np.ndarray:
    found = tables[0][checksums & 255]
    for byte in (1, 2, 3):
        found ^= tables[byte][(checksums >> np.uint32(8 * byte)) & 255]
    return found


def _images(num_bytes: int) -> np.ndarray:
    """Return what so many bytes behind it make of each bit of a checksum, (32,) uint32."""
    images = _BITS
    for power in range(num_bytes.bit_length()):
        if num_bytes >> power & 1:
            images = _moved(images, _tables(_power(power)))
    return images


@lru_cache(maxsize=64)
def _power(power: int) -> np.ndarray:
    """Return what ``2**power`` bytes make of each bit of a checksum."""
    if power:
        half = _power(power - 1)
        return _moved(half, _tables(half))
    images = np.concatenate([[np.uint32(_POLYNOMIAL)], _BITS[:-1]]).astype(np.uint32)  # one bit behind it
    for _ in range(3):
        images = _moved(images, _tables(images))
    return images


def _tables(images: np.ndarray) -> np.ndarray:
    """Return a linear map as one table for each byte, (4, 256) uint32, given the images of the 32 bits."""
    tables = np.zeros((4, 1), np.uint32)
    for bit in range(8):
        tables = np.concatenate([tables, tables ^ images.reshape(4, 8)[:, bit, None]], axis=1)
    return tables
