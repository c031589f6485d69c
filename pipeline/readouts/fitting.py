"""A named readout over a dataset: read its parts, fit it on training rows, apply it to any row."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import NoDataError
from pipeline.readouts.joining import Joined, fit_joined, unit_rows
from pipeline.readouts.moments import moments, take_parts
from pipeline.readouts.paired_views import AgreeingDirections, choose_agreeing_strength, fit_agreeing, halves
from pipeline.readouts.whitening import SAFE_STRENGTH, choose_strength
from pipeline.recipe.readouts import ReadoutSpec

if TYPE_CHECKING:
    from pipeline.store.dataset import Dataset

ROWS_PER_READ = 2048


@dataclass(frozen=True)
class FittedReadout:
    """A readout that knows its training rows.

    Attributes
    ----------
    spec : ReadoutSpec
    joined : Joined
    agreeing : AgreeingDirections or None
    strength : float or None
        The shrinkage in use; None where nothing is projected, or training groups chose none.
    chosen : mapping
        Held-out accuracy of every strength that was tried.
    """

    spec: ReadoutSpec
    joined: Joined
    agreeing: AgreeingDirections | None = None
    strength: float | None = None
    chosen: Mapping[float | None, float] | None = None

    @property
    def dim(self) -> int:
        """Channels of a vector."""
        return self.joined.dim if self.agreeing is None else self.agreeing.matrix.shape[1]

    def __call__(self, parts: list[np.ndarray]) -> np.ndarray:
        """Return (N, E) float32 of length 1."""
        values = self.joined(parts)
        return values if self.agreeing is None else unit_rows(self.agreeing(values))

    def encode(self) -> bytes:
        """Return what was learned from the training rows, as one NumPy archive."""
        arrays = self.joined.arrays() | (self.agreeing.arrays() if self.agreeing is not None else {})
        if self.strength is not None:
            arrays["strength"] = np.array([self.strength], np.float64)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes keywords for options
        return buffer.getvalue()

    @classmethod
    def decode(cls, spec: ReadoutSpec, content: bytes) -> FittedReadout:
        """Build it from :meth:`encode`."""
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = dict(archive)
        strength = float(arrays["strength"][0]) if "strength" in arrays else None
        return cls(spec, Joined.of_arrays(arrays), AgreeingDirections.of_arrays(arrays), strength)


def read_parts(
    ds: Dataset, spec: ReadoutSpec, rows: np.ndarray, *, half: int | None = None
) -> tuple[list[np.ndarray], np.ndarray]:
    """Read the parts of a readout for some rows.

    Parameters
    ----------
    ds : Dataset
    spec : ReadoutSpec
    rows : ndarray
        Ascending.
    half : {0, 1}, optional
        Only every other time of each video, for two views of it.

    Returns
    -------
    parts : list of ndarray
        (n, D_i) float32 each.
    valid : ndarray of shape (n,), bool
        Rows with a valid crop in every feature set.
    """
    parts: list[list[np.ndarray]] = []
    valid = np.ones(len(rows), bool)
    for begin in range(0, max(len(rows), 1), ROWS_PER_READ):
        at = slice(begin, begin + ROWS_PER_READ)
        selection = ds.select(rows=rows[at])
        found: list[np.ndarray] = []
        for part in spec.of:
            block = selection.features(part.crops, part.feature_set)
            usable = np.asarray(block.valid, bool) & np.isfinite(block.values).all(axis=2)
            if half is not None:
                usable = halves(usable, np.asarray(block.geometry))[half]
            valid[at] &= usable.any(1)
            measured = moments(block.values, usable, np.asarray(block.geometry), num_cosines=spec.cosines)
            found += take_parts(measured, part.take)
        parts.append(found)
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)], valid


def part_weights(spec: ReadoutSpec) -> list[float]:
    """Return the say of every vector in :func:`read_parts`."""
    return [
        part.weight for part in spec.of for name in part.take for _ in range(spec.cosines if name == "cosines" else 1)
    ]


def part_dims(spec: ReadoutSpec, dims: Mapping[tuple[str, str], int]) -> tuple[int, ...]:
    """Return the channels of every vector in :func:`read_parts`, from those of each (crops, feature set)."""
    return tuple(
        dims[part.crops, part.feature_set]
        for part in spec.of
        for name in part.take
        for _ in range(spec.cosines if name == "cosines" else 1)
    )


def fit_readout(
    parts: list[np.ndarray],
    spec: ReadoutSpec,
    *,
    labels: list[tuple[str, ...]] | None = None,
    groups: list[str] | None = None,
    views: tuple[list[np.ndarray], list[np.ndarray]] | None = None,
) -> FittedReadout:
    """Fit a readout on the parts of training rows.

    Parameters
    ----------
    parts : list of ndarray
    spec : ReadoutSpec
    labels, groups : list, optional
        Of the training rows; they choose the strength where it is `auto`.
    views : pair of lists, optional
        The parts of both halves of the training videos; vicreg needs them.

    Raises
    ------
    NoDataError
        Without rows, or where vicreg has no pair of views.
    """
    joined = fit_joined(parts, weights=part_weights(spec))
    if spec.project == "none":
        return FittedReadout(spec, joined)
    strength: float | None = SAFE_STRENGTH if spec.strength == "auto" else spec.strength
    chosen: Mapping[float | None, float] | None = None
    if spec.strength == "auto" and labels is not None and groups is not None:
        strength, chosen = _choose(spec, joined, parts, labels, groups, views)
    by_part = spec.project == "whitened_parts"
    if by_part or spec.project == "whitened":
        if strength is not None:
            joined = fit_joined(parts, weights=part_weights(spec), strength=strength, by_part=by_part)
        return FittedReadout(spec, joined, None, strength, chosen)
    if views is None or not len(views[0][0]):
        raise NoDataError("expected training videos with two times or places for the readout vicreg, found none")
    strength = SAFE_STRENGTH if strength is None else strength
    agreeing = fit_agreeing(joined(views[0]), joined(views[1]), outputs=spec.outputs, strength=strength)
    return FittedReadout(spec, joined, agreeing, strength, chosen)


def _choose(
    spec: ReadoutSpec,
    joined: Joined,
    parts: list[np.ndarray],
    labels: list[tuple[str, ...]],
    groups: list[str],
    views: tuple[list[np.ndarray], list[np.ndarray]] | None,
) -> tuple[float | None, Mapping[float | None, float]]:
    """Choose the strength of the projection that is asked for; the safe one where there is nothing to choose by."""
    known = np.array([i for i, found in enumerate(labels) if found], np.int64)
    counts = Counter(label for found in labels for label in found)
    if len(counts) < 2:
        return SAFE_STRENGTH, {}
    classes = {label: i for i, label in enumerate(sorted(counts))}
    targets = np.zeros((len(known), len(classes)), bool)
    for row, i in enumerate(known):
        targets[row, [classes[label] for label in labels[i]]] = True
    own = [groups[i] for i in known]
    if spec.project in ("whitened", "whitened_parts"):
        dims = [len(c) for c in joined.centres] if spec.project == "whitened_parts" else ()
        return choose_strength(joined.equal_say(parts)[known], targets, own, dims=dims)
    if views is None or len(views[0][0]) != len(labels):  # some videos have one view only
        return SAFE_STRENGTH, {}
    halves_of = (joined(views[0])[known], joined(views[1])[known])
    return choose_agreeing_strength(halves_of, joined(parts)[known], targets, own, outputs=spec.outputs)
