"""Which sets a handle sees: their ledgers as they stood when it was made, and the readers that believe these alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np

from pipeline.errors import CorruptDataError, NotFoundError, WrongVideoError
from pipeline.names import did_you_mean
from pipeline.sets.arrays import is_group
from pipeline.sets.binding import Binding
from pipeline.sets.ledger import Ledger
from pipeline.sets.reader import SetReader
from pipeline.sets.set_files import open_embedding_set, open_feature_set
from pipeline.storage import schema
from pipeline.storage.backend import StorageBackend
from pipeline.store.progress import SetKey

VERSION = "version"
"""Attribute of an embedding set that is not the first of its name: its number."""

PinnedNames: TypeAlias = tuple[dict[str, list[str]], dict[SetKey, dict[int, int]]]
"""Feature sets of every crop set, and of every set the generation of each shard: all that a handle has pinned."""


class PinnedSets:
    """The crop sets, feature sets and embedding sets of a dataset at one moment.

    Parameters
    ----------
    binding : Binding
        What every ledger entry is held to.
    pinned : PinnedNames, optional
        What another handle saw (:meth:`pinned`); None: what is there now.
    hidden : ndarray of int64, optional
        Rows whose values are not served: their videos were removed.
    """

    def __init__(
        self,
        backend: StorageBackend,
        dataset: str,
        binding: Binding,
        pinned: PinnedNames | None = None,
        hidden: np.ndarray | None = None,
    ) -> None:
        self._backend = backend
        self._dataset = dataset
        self._binding = binding
        self._hidden = hidden
        self._ledgers: dict[SetKey, Ledger] = {}
        self._broken: dict[SetKey, CorruptDataError] = {}
        self._readers: dict[SetKey, SetReader] = {}
        self._feature_sets: dict[str, list[str]] = {}
        if pinned is not None:
            self._feature_sets = {crops: list(names) for crops, names in pinned[0].items()}
            for (crops, name), generations in pinned[1].items():
                key = self._ledger_key(crops, name)
                self._ledgers[crops, name] = Ledger(backend, key, generations, binding=binding)
            return
        self._look()

    def _ledger_key(self, crops: str | None, name: str) -> str:
        if crops is None:
            return schema.embedding_ledger_key(self._dataset, name)
        return schema.feature_ledger_key(self._dataset, crops, name)

    def pinned(self) -> PinnedNames:
        """Return what this handle has pinned, small and plain, for another process."""
        return self._feature_sets, {key: ledger.generations for key, ledger in self._ledgers.items()}

    def _look(self) -> None:
        backend, dataset = self._backend, self._dataset
        for crops in backend.folders(f"{dataset}/crops"):
            if not is_group(backend, schema.crop_set_key(dataset, crops), "crop_set"):
                continue
            found = backend.folders(f"{dataset}/crops/{crops}/features")
            made = [f for f in found if is_group(backend, schema.feature_set_key(dataset, crops, f), "feature_set")]
            self._feature_sets[crops] = made
            for feature_set in made:
                key = self._ledger_key(crops, feature_set)
                self._pin((crops, feature_set), key)
        for name in backend.folders(f"{dataset}/embeddings"):
            if is_group(backend, schema.embedding_set_key(dataset, name), "embedding_set"):
                self._pin((None, name), self._ledger_key(None, name))

    def _pin(self, name: SetKey, ledger: str) -> None:
        try:
            self._ledgers[name] = Ledger(self._backend, ledger, binding=self._binding)
        except CorruptDataError as err:  # who asks for this set is told; the others can be read
            self._broken[name] = err

    def check_catalogue(self, num_rows: int, shard_rows: int) -> None:
        """Raise :class:`WrongVideoError` if a ledger knows rows that the catalogue, looked at again, lacks."""
        for ledger in self._ledgers.values():
            last = max(ledger.generations, default=-1)
            if (last + 1) * shard_rows <= num_rows:
                continue  # what the name says is enough: the shard lies inside
            try:
                ledger.entry(last)
            except WrongVideoError:
                raise
            except CorruptDataError:
                continue  # who reads it is told

    def crop_sets(self) -> list[str]:
        """Return the names of the crop sets."""
        return sorted(self._feature_sets)

    def feature_sets(self, crops: str) -> list[str]:
        """Return the names of a crop set's feature sets; NotFoundError where there is no such crop set."""
        if crops not in self._feature_sets:
            raise self.unknown("crop set", crops, self.crop_sets())
        return sorted(self._feature_sets[crops])

    def embedding_sets(self) -> list[str]:
        """Return the names of the embedding sets."""
        return sorted(name for crops, name in {**self._ledgers, **self._broken} if crops is None)

    def embedding_version(self, name: str) -> int:
        """Return the number of an embedding set: of an older version its own, of a name alone one that no older had."""
        base, at, number = name.partition("@")
        if at:
            return int(number)
        _, attributes = open_embedding_set(self._backend, self._dataset, name)
        numbers = [one.removeprefix(f"{base}@") for one in self.embedding_sets() if one.startswith(f"{base}@")]
        said = (attributes.get("attrs") or {}).get(VERSION)  # where older ones were pruned, nothing else tells
        return max([said if isinstance(said, int) else 1, *(int(one) + 1 for one in numbers if one.isdecimal())])

    def embedding_set(self, name: str) -> str:
        """Return the name under which an embedding set lies: ``NAME@<newest>`` is NAME."""
        base, at, number = name.partition("@")
        there = self.embedding_sets() if at else ()
        is_newest = base in there and name not in there and number == str(self.embedding_version(base))
        return base if is_newest else name

    def ledger(self, crops: str | None, name: str) -> Ledger:
        """Return the ledger of a feature set, or of an embedding set (`crops` None); NotFoundError names the others."""
        ledger = self._ledgers.get((crops, name))
        if ledger is not None:
            return ledger
        if (crops, name) in self._broken:
            raise self._broken[crops, name]
        if crops is None:
            raise self.unknown("embedding set", name, self.embedding_sets())
        raise self.unknown(f"feature set of {crops}", name, self.feature_sets(crops))

    def ledger_now(self, crops: str | None, name: str) -> Ledger:
        """Return a ledger as it stands now, of a set that may be younger than this handle."""
        return Ledger(self._backend, self._ledger_key(crops, name), binding=self._binding)

    def reader(self, crops: str | None, name: str) -> SetReader:
        """Return the reader of a set, always the same one; NotFoundError as for :meth:`ledger`."""
        if (crops, name) not in self._readers:
            ledger = self.ledger(crops, name)
            if crops is None:
                spec, _ = open_embedding_set(self._backend, self._dataset, name)
            else:
                spec, _ = open_feature_set(self._backend, self._dataset, crops, name)
            self._readers[crops, name] = SetReader(self._backend, spec, ledger, self._hidden)
        return self._readers[crops, name]

    def ledgers(self, crops: str | None, feature_set: str | None, embedding: str | None) -> dict[SetKey, Ledger]:
        """Return the ledgers that a snapshot counts: of one set, of a crop set's sets, or all, ordered by name."""
        if feature_set is not None:
            return {(crops, feature_set): self.ledger(crops, feature_set)}
        if embedding is not None:
            return {(None, embedding): self.ledger(None, embedding)}
        chosen = (key for key in {**self._ledgers, **self._broken} if crops is None or key[0] == crops)
        return {key: self.ledger(*key) for key in sorted(chosen, key=lambda k: (k[0] or "", k[1]))}

    def rows_with_features(self, rows: Iterable[int], shard_rows: int) -> list[int]:
        """Return those of some rows of which any feature set holds a valid crop, ascending."""
        found: set[int] = set()
        for (crops, _), ledger in self._ledgers.items():
            for row in set(rows) - found if crops is not None else ():
                entry = ledger.entry(row // shard_rows)
                if entry is not None and row < entry.row_stop and entry.num_valid[row - entry.row_start] > 0:
                    found.add(row)
        return sorted(found)

    def add_crop_set(self, name: str) -> None:
        """See a crop set that this handle has just defined."""
        self._feature_sets.setdefault(name, [])

    def forget_embedding_set(self, name: str) -> None:
        """See no more of an embedding set that this handle has just dropped."""
        self._ledgers.pop((None, name), None)
        self._readers.pop((None, name), None)

    def unknown(self, what: str, name: str, there: list[str]) -> NotFoundError:
        """Return the error that names what there is."""
        return NotFoundError(
            f"expected a {what} of dataset {self._dataset} ({', '.join(there) or 'there is none yet'}), found {name!r}"
            f"{did_you_mean(name, there)}"
        )
