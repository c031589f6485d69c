"""Readouts: which vector (or crops) of a video a probe is given, with the rows that have it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pipeline.products import Measurement
from pipeline.readouts.collapse import doubts_about_vectors
from pipeline.readouts.fitting import FittedReadout, fit_readout, part_dims, part_weights, read_parts
from pipeline.recipe import ReadoutSpec
from pipeline.recipe.readout_words import OF_CROPS, OF_EMBEDDINGS
from probe.data.features import FeatureTable, SplitTable, UsedRows, read_embeddings, read_features, used_rows
from probe.maths.exact_search import unit_vectors
from probe.maths.knn import Centring, centre

if TYPE_CHECKING:
    from pipeline import Dataset


@dataclass(frozen=True)
class ReadoutData:
    """One readout of one feature set: vectors, who is used, and how to join or centre them."""

    crops: str
    feature_set: str
    readout: str
    embedding: str | None
    used: UsedRows
    parts: tuple[np.ndarray, ...]
    """Each (n, D_i) float32 in the order of the split table; two where pooled crops and embedding are joined."""
    table: FeatureTable | None
    """Where the readout reads crops."""
    say: tuple[float, ...] = ()
    """What each part counts where vectors are joined; empty: all the same."""
    is_projected: bool = False
    """Whether directions were weighed on purpose (whitened, vicreg)."""
    joined_dims: tuple[int, ...] = ()
    """Channels of each part that an embedding set without a model joined; its vector is one part here."""
    also_reads: tuple[tuple[str, str], ...] = ()
    """(crops, feature set) beside its own."""
    notes: tuple[str, ...] = ()

    @property
    def num_crops(self) -> int:
        """Most crops a video has; 0 where only an embedding is read."""
        return self.table.num_crops if self.table is not None else 0

    @property
    def num_channels(self) -> int:
        """Channels of the whole vector."""
        return sum(part.shape[1] for part in self.parts)

    def doubts(self) -> tuple[str, ...]:
        """Say where the vectors of the used videos have collapsed to one point."""
        whole = np.concatenate(self.raw()).astype(np.float64)
        return doubts_about_vectors(len(whole), whole.sum(axis=0), np.square(whole).sum(axis=0))

    def raw(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the raw train and test vectors (N, D) and (Q, D), parts side by side."""
        whole = self.parts[0] if len(self.parts) == 1 else np.concatenate(self.parts, axis=1)
        return whole[self.used.train], whole[self.used.test]

    def equal_say(self, centring: Centring) -> tuple[np.ndarray, np.ndarray]:
        """Return unit train and test vectors.

        Parameters
        ----------
        centring : {"none", "train", "per_split"}
            Every part is centred and normalised by itself, so that each has the same say.
        """
        if len(self.parts) == 1:
            return centre(*self.raw(), centring)
        pairs = [centre(part[self.used.train], part[self.used.test], centring) for part in self.parts]
        say = self.say or (1.0,) * len(pairs)
        train, test = (
            np.concatenate([w * p[side] for p, w in zip(pairs, say, strict=True)], axis=1) for side in (0, 1)
        )
        return unit_vectors(train), unit_vectors(test)


class Reader:
    """Reads every split, feature set and embedding set once, however many probes ask for it."""

    def __init__(self, ds: Dataset) -> None:
        self.ds = ds
        self.missing: list[str] = []
        """What the recipe asks for and the store does not have."""
        self._splits: dict[str, SplitTable] = {}
        self._features: dict[tuple[str, str, str], FeatureTable] = {}
        self._embeddings: dict[tuple[str, str], tuple[np.ndarray, tuple[str, ...]]] = {}
        self._fitted: dict[tuple[object, ...], FittedReadout] = {}

    @cached_property
    def _embedding_names(self) -> list[str]:
        return list(self.ds.embedding_sets())

    def split(self, name: str) -> SplitTable:
        """Return the split's rows."""
        from probe.data.features import read_split

        if name not in self._splits:
            self._splits[name] = read_split(self.ds, name)
        return self._splits[name]

    def features(self, split: str, crops: str, feature_set: str) -> FeatureTable:
        """Return the features of a split's rows."""
        key = (split, crops, feature_set)
        if key not in self._features:
            self._features[key] = read_features(self.ds, self.split(split), crops, feature_set)
        return self._features[key]

    def embeddings(self, split: str, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the embeddings of a split's rows, and why some have none."""
        key = (split, name)
        if key not in self._embeddings:
            self._embeddings[key] = read_embeddings(self.ds, self.split(split), name)
        return self._embeddings[key]

    def readouts(
        self, measured: Measurement, wanted: tuple[str, ...], drop: dict[int, str] | None = None
    ) -> Iterator[ReadoutData]:
        """Yield the data of each wanted readout that can be had.

        Parameters
        ----------
        measured : Measurement
            Which split of which features, and which embedding sets beside them.
        wanted : tuple of str
            See :mod:`pipeline.recipe.readout_words`.
        drop : dict, optional
            Positions in the split to leave out, with the reason.
        """
        split, crops, feature_set = measured.spec.measured_split, measured.spec.crops, measured.feature_set
        rows = self.split(split)
        for readout in wanted:
            if readout in OF_CROPS:
                table = self.features(split, crops, feature_set)
                if readout != "mean" and table.values is None:
                    self._miss(f"{readout} of {crops}/{feature_set}: its crops do not fit in memory")
                    continue
                yield self._data(rows, crops, feature_set, readout, None, (table.pooled,), table.reasons, table, drop)
                continue
            if readout not in OF_EMBEDDINGS:
                spec = measured.untrained(readout)
                if spec is not None:
                    yield self._untrained(rows, crops, feature_set, readout, spec, drop)
                continue
            for found in measured.embeddings:
                if found.name not in self._embedding_names:
                    self._miss(f"embedding set {found.name} is not in the store yet; run `scale embed`")
                    continue
                vectors, reasons = self.embeddings(split, found.name)
                if readout == "cls":
                    data = self._data(
                        rows, crops, feature_set, found.readout, found.name, (vectors,), reasons, None, drop
                    )
                    yield self._as_made(data, found.name)
                elif found.readout == "cls":
                    table = self.features(split, crops, feature_set)
                    both = tuple(a or b for a, b in zip(table.reasons, reasons, strict=True))
                    parts = (table.pooled, vectors)
                    yield self._data(rows, crops, feature_set, readout, found.name, parts, both, table, drop)

    def _data(
        self,
        rows: SplitTable,
        crops: str,
        feature_set: str,
        readout: str,
        embedding: str | None,
        parts: tuple[np.ndarray, ...],
        reasons: tuple[str, ...],
        table: FeatureTable | None,
        drop: dict[int, str] | None,
    ) -> ReadoutData:
        if drop:
            reasons = tuple(reason or drop.get(i, "") for i, reason in enumerate(reasons))
        name = readout if embedding is None else f"{readout}:{embedding}"
        used = used_rows(rows, reasons, crops=crops, feature_set=feature_set, readout=name)
        return ReadoutData(crops, feature_set, readout, embedding, used, parts, table)

    def _as_made(self, data: ReadoutData, embedding: str) -> ReadoutData:
        """Say of an embedding set what the readout itself would say of its channels, by the set's own record."""
        spec = ReadoutSpec.of_record(self.ds.embedding_info(embedding).fingerprint.get("readout"))
        if spec is None:
            return data
        if spec.project != "none":
            return replace(data, is_projected=True)
        dims = {pair: self.ds.feature_info(*pair).dim for pair in spec.feature_sets}
        return replace(data, say=tuple(part_weights(spec)), joined_dims=part_dims(spec, dims))

    def _untrained(
        self,
        rows: SplitTable,
        crops: str,
        feature_set: str,
        readout: str,
        spec: ReadoutSpec,
        drop: dict[int, str] | None,
    ) -> ReadoutData:
        """Read a readout that needs no training; what it takes from train rows, it takes from those that are used."""
        tables = [self.features(rows.split, *pair) for pair in spec.feature_sets]
        reasons = tuple(next((r for r in found if r), "") for found in zip(*(t.reasons for t in tables), strict=True))
        order = np.argsort(rows.rows, kind="stable")

        def read(half: int | None = None) -> tuple[list[np.ndarray], np.ndarray]:
            parts, valid = read_parts(self.ds, spec, rows.rows[order], half=half)
            back = np.argsort(order)
            return [part[back] for part in parts], valid[back]

        parts, valid = read()
        reasons = tuple(r or ("" if ok else "no valid crop") for r, ok in zip(reasons, valid, strict=True))
        plain = self._data(rows, crops, feature_set, readout, None, tuple(parts), reasons, None, drop)
        also = spec.feature_sets[1:]
        if spec.project == "none":
            return replace(plain, say=tuple(part_weights(spec)), also_reads=also)
        train = plain.used.train
        key = (rows.split, crops, feature_set, readout, train.tobytes())
        if key not in self._fitted:  # kNN and linear probes read the same, and choosing a strength takes long
            views = None
            if spec.project == "vicreg":
                (first, has_first), (second, has_second) = read(0), read(1)
                both = train[(has_first & has_second)[train]]
                views = ([part[both] for part in first], [part[both] for part in second])
            self._fitted[key] = fit_readout(
                [part[train] for part in parts],
                spec,
                labels=[rows.labels[i] for i in train],
                groups=[rows.groups[i] for i in train],
                views=views,
            )
        fitted = self._fitted[key]
        text = "no whitening" if fitted.strength is None else f"shrinkage {fitted.strength:g} mean variances"
        notes = (f"{text}{', chosen on training groups' if fitted.chosen else ''}",)
        return replace(plain, parts=(fitted(parts),), is_projected=True, also_reads=also, notes=notes)

    def _miss(self, text: str) -> None:
        if text not in self.missing:
            self.missing.append(text)
