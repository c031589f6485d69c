"""Random numbers that depend on nothing but a key: the same on every machine, worker, resume and NumPy version."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from pipeline.fingerprint import canonical_json

_TO_UNIT = 2.0**-53


class Draws:
    """Uniform numbers from a counter-based generator whose key is a hash.

    Only the raw bits of Philox are used, which NumPy keeps stable between
    versions; the methods of ``numpy.random.Generator`` are allowed to change.

    Parameters
    ----------
    *key : JSON-like
        What the numbers may depend on: seed, video id, policy, purpose.
    """

    def __init__(self, *key: Any) -> None:
        digest = hashlib.sha256(canonical_json(list(key)).encode()).digest()
        self._bits = np.random.Philox(key=int.from_bytes(digest[:16], "little"))

    def unit(self, size: int) -> np.ndarray:
        """Return `size` numbers, uniform in [0, 1), float64."""
        return (self._bits.random_raw(size) >> np.uint64(11)) * _TO_UNIT

    def uniform(self, low: Any, high: Any, size: int) -> np.ndarray:
        """Return `size` numbers, uniform in [low, high), float64; the bounds may be arrays."""
        return low + (np.asarray(high) - low) * self.unit(size)

    def integers(self, low: Any, high: Any, size: int) -> np.ndarray:
        """Return `size` whole numbers in low..high, both included, int64; the bounds may be arrays."""
        span = np.asarray(high, dtype=np.int64) - low + 1
        return low + np.minimum(np.floor(self.unit(size) * span).astype(np.int64), span - 1)

    def bernoulli(self, probability: float, size: int) -> np.ndarray:
        """Return `size` booleans that are True with a probability."""
        return self.unit(size) < probability

    def choice(self, num_options: int, size: int) -> np.ndarray:
        """Return `size` indices into `num_options` options, int64."""
        return self.integers(0, num_options - 1, size)
