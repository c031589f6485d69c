"""What a semi-supervised method is given, and where methods are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.recipe.probes.semi import SemiMethod, SemiProbe


@dataclass(frozen=True)
class Task:
    """Train videos of which a few have a label.

    Attributes
    ----------
    spec : SemiProbe
    train, test : ndarray
        (N, D) and (Q, D) unit vectors.
    labelled : ndarray
        (L,) int64: the train rows whose label is known.
    truth : ndarray
        (L, C) bool, of these alone: no method can see more.
    parts : tuple of (ndarray, ndarray)
        The same videos, part by part of the readout: unit vectors of train and test.
    crops : tuple of (ndarray, ndarray) or None
        Values (N, V, D) and valid (N, V) of the train videos' crops, where the readout pools them.
    seed : int
    """

    spec: SemiProbe
    train: np.ndarray
    test: np.ndarray
    labelled: np.ndarray
    truth: np.ndarray
    parts: tuple[tuple[np.ndarray, np.ndarray], ...]
    crops: tuple[np.ndarray, np.ndarray] | None
    seed: int

    @property
    def unlabelled(self) -> np.ndarray:
        """The other train rows."""
        return np.setdiff1d(np.arange(len(self.train)), self.labelled)

    def targets(self) -> np.ndarray:
        """Return (N, C) float64: shares of the classes of labelled rows, zeros elsewhere."""
        found = np.zeros((len(self.train), self.truth.shape[1]))
        found[self.labelled] = self.truth / self.truth.sum(1, keepdims=True)
        return found


Method = Callable[[Task], np.ndarray]
METHODS: dict[SemiMethod, Method] = {}


def method(name: SemiMethod) -> Callable[[Method], Method]:
    """Register a method under its name in recipes."""

    def register(function: Method) -> Method:
        METHODS[name] = function
        return function

    return register
