"""The catalogue as what a ledger row is held to: the key of the video in every row."""

from __future__ import annotations

import numpy as np

from pipeline.errors import WrongVideoError
from pipeline.sets.binding import NOBODY, ids_digest, video_keys
from pipeline.storage.backend import StorageBackend
from pipeline.storage.columns import values_of
from pipeline.store.catalogue import Catalogue
from pipeline.store.facts import FactStates, open_facts
from pipeline.store.removals import TOMBSTONE, open_removals, tombstone_id


class VideoRows:
    """Keys of a dataset's videos by row.

    Rows beyond the catalogue that was pinned may be a live append's, so the catalogue is looked at again before they
    are called missing.
    """

    def __init__(
        self,
        backend: StorageBackend,
        dataset: str,
        catalogue: Catalogue,
        removed: np.ndarray | None = None,
        states: FactStates | None = None,
    ) -> None:
        self._backend = backend
        self._dataset = dataset
        self._catalogue = catalogue
        self._removed = removed
        self._states = states

    @property
    def removed_rows(self) -> np.ndarray:
        """Rows whose videos were removed, ascending: they are nobody's."""
        if self._removed is None:
            state = open_removals(self._backend, self._dataset).state
            self._removed = values_of(state["row"]).astype(np.int64)
        return self._removed

    def keys(self, start: int, stop: int) -> np.ndarray:
        """See :class:`pipeline.sets.binding.Binding`."""
        self.check_inside(stop, "a ledger entry")
        ids = self._catalogue.part(start, stop)["video_id"].to_pylist()
        keys = video_keys(ids).copy()
        for place, video_id in enumerate(ids):
            if video_id.startswith(TOMBSTONE) and video_id == tombstone_id(start + place):
                keys[place] = NOBODY
        for row in self._known_states.rows_in(start, stop):
            if keys[row - start] != NOBODY:
                keys[row - start] = self._known_states.key(row, ids[row - start])
        removed = self.removed_rows
        keys[removed[(removed >= start) & (removed < stop)] - start] = NOBODY
        return keys

    def digest(self, start: int, stop: int) -> str:
        """See :class:`pipeline.sets.binding.Binding`."""
        removed = self.removed_rows
        if (
            stop > self._catalogue.num_rows
            or (len(removed) and removed.searchsorted(start) != removed.searchsorted(stop))
            or self._known_states.rows_in(start, stop)
        ):
            return ""
        ids = self._catalogue.part(start, stop)["video_id"]
        return ids_digest(ids) if len(ids) == stop - start else ""

    @property
    def _known_states(self) -> FactStates:
        if self._states is None:
            self._states = FactStates(open_facts(self._backend, self._dataset))
        return self._states

    def former(self, found: np.ndarray, start: int, stop: int) -> np.ndarray:
        """See :class:`pipeline.sets.binding.Binding`."""
        places = np.zeros(len(found), bool)
        rows = self._known_states.rows_in(start, stop)
        ids = self._catalogue.part(start, stop)["video_id"].to_pylist() if rows else []
        for row in rows:
            places[row - start] = int(found[row - start]) in self._known_states.former_keys(row, ids[row - start])
        return places

    def has_former(self, start: int, stop: int) -> bool:
        """See :class:`pipeline.sets.binding.Binding`."""
        return bool(self._known_states.rows_in(start, stop))

    def is_replaced_since(self, found: np.ndarray, start: int, stop: int) -> bool:
        """See :class:`pipeline.sets.binding.Binding`."""
        later = VideoRows(self._backend, self._dataset, self._catalogue, self._removed)
        if later._known_states.count == self._known_states.count:
            return False
        now = later.keys(start, stop)
        return bool(((found == now) | later.former(found, start, stop) | (now == NOBODY)).all())

    def covers(self, stop: int) -> bool:
        """Whether the catalogue, looked at again where that is needed, reaches row `stop`."""
        if stop > self._catalogue.num_rows:
            self._catalogue = Catalogue(self._backend, self._dataset)
        return stop <= self._catalogue.num_rows

    def check_inside(self, stop: int, who: str) -> None:
        """Raise :class:`WrongVideoError` if the catalogue, looked at again, has fewer rows than `who` knows."""
        if not self.covers(stop):
            raise WrongVideoError(
                f"dataset {self._dataset}: expected a catalogue of at least {stop} videos, as {who} knows row "
                f"{stop - 1}, found {self._catalogue.num_rows}; catalogue files are missing. Restore "
                f"{self._dataset}/catalog from a backup; nothing is added until then, because new videos would get "
                "the rows of those that are missing"
            )
