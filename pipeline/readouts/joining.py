"""From parts to one vector: each centred on training rows and of length 1, joined with its say, perhaps whitened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import InvalidInputError, NoDataError, ShapeMismatchError
from pipeline.readouts.whitening import ShrunkWhitening, fit_whitening, whiten_parts


@dataclass(frozen=True)
class Joined:
    """What training rows decide about a readout; applied to any row.

    Attributes
    ----------
    centres : tuple of ndarray
        (D_i,) float32 each.
    weights : tuple of float
        What each part counts; equal unless the recipe says otherwise.
    whitening : ShrunkWhitening or None
        Of the joined rows.
    own : tuple of ShrunkWhitening
        Of each part, before they are joined; empty: none.
    """

    centres: tuple[np.ndarray, ...]
    weights: tuple[float, ...]
    whitening: ShrunkWhitening | None = None
    own: tuple[ShrunkWhitening, ...] = ()

    @property
    def dim(self) -> int:
        """Channels of a vector."""
        return sum(len(c) for c in self.centres)

    def equal_say(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Return the parts centred, of length 1 (0 stays 0), weighted and joined, before any whitening.

        Raises
        ------
        ShapeMismatchError
            If they are not the parts that this was fitted on.
        """
        if [p.shape[1:] for p in parts] != [c.shape for c in self.centres]:
            raise ShapeMismatchError(
                f"expected parts with {[len(c) for c in self.centres]} channels, found {[p.shape[1:] for p in parts]}"
            )
        done = [w * unit_rows(p - c) for p, c, w in zip(parts, self.centres, self.weights, strict=True)]
        return np.concatenate(done, axis=1)

    def __call__(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Return (N, D) float32 of length 1."""
        joined = self.equal_say(parts)
        if self.own:
            joined = whiten_parts(joined, self.own)
        return unit_rows(joined if self.whitening is None else self.whitening(joined))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what is needed to build it again."""
        content = {f"centre{i}": c for i, c in enumerate(self.centres)}
        content["weights"] = np.array(self.weights, np.float64)
        for i, whitening in enumerate(self.own):
            content |= {f"part{i}_{name}": array for name, array in whitening.arrays().items()}
        return content | ({} if self.whitening is None else self.whitening.arrays())

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Joined:
        """Build it from :meth:`arrays`."""
        weights = tuple(float(w) for w in arrays["weights"])
        centres = tuple(np.asarray(arrays[f"centre{i}"]) for i in range(len(weights)))
        own = []
        for i in range(len(weights)):
            prefix = f"part{i}_"
            one = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            if (whitening := ShrunkWhitening.of_arrays(one)) is not None:
                own.append(whitening)
        return cls(centres, weights, ShrunkWhitening.of_arrays(arrays), tuple(own))


def fit_joined(
    parts: Sequence[np.ndarray],
    *,
    weights: Sequence[float] | None = None,
    strength: float | None = None,
    by_part: bool = False,
) -> Joined:
    """Fit a readout on the parts of training rows.

    Parameters
    ----------
    parts : sequence of ndarray
        (N, D_i) each, training rows alone.
    weights : sequence of float, optional
        None: every part has the same say.
    strength : float, optional
        Of the whitening, in mean variances; None: none.
    by_part : bool, default False
        Whiten every part by itself.

    Raises
    ------
    NoDataError
        Without rows.
    InvalidInputError
        If a weight is negative, or all are zero.
    """
    if not parts or not len(parts[0]):
        raise NoDataError("expected training rows to fit a readout on, found none")
    say = tuple(1.0 for _ in parts) if weights is None else tuple(weights)
    if len(say) != len(parts) or min(say) < 0 or not sum(say):
        raise InvalidInputError(f"expected {len(parts)} weights of at least 0, one above it, found {say}")
    plain = Joined(tuple(p.mean(0, dtype=np.float64).astype(np.float32) for p in parts), say)
    if strength is None:
        return plain
    joined = plain.equal_say(parts)
    if by_part:
        edges = np.cumsum([len(centre) for centre in plain.centres])[:-1]
        own = tuple(fit_whitening(part, strength) for part in np.split(joined, edges, axis=1))
        return Joined(plain.centres, say, own=own)
    return Joined(plain.centres, say, fit_whitening(joined, strength))


def unit_rows(values_ND: np.ndarray) -> np.ndarray:
    """Return rows of length 1 in float32; a row of zeros stays."""
    values = np.asarray(values_ND, np.float32)
    length = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
    return (values / np.where(length > 0, length, 1)).astype(np.float32)
