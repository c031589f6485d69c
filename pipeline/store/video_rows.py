"""The catalogue as what a ledger row is held to: the key of the video in every row."""

from __future__ import annotations

import numpy as np

from pipeline.errors import WrongVideoError
from pipeline.sets.binding import video_keys
from pipeline.storage.backend import StorageBackend
from pipeline.store.catalogue import Catalogue


class VideoRows:
    """Keys of a dataset's videos by row.

    Rows beyond the catalogue that was pinned may be a live append's, so the catalogue is looked at again before they
    are called missing.
    """

    def __init__(self, backend: StorageBackend, dataset: str, catalogue: Catalogue) -> None:
        self._backend = backend
        self._dataset = dataset
        self._catalogue = catalogue

    def keys(self, start: int, stop: int) -> np.ndarray:
        """See :class:`pipeline.sets.binding.Binding`."""
        self.check_inside(stop, "a ledger entry")
        return video_keys(self._catalogue.videos["video_id"].slice(start, stop - start).to_pylist())

    def check_inside(self, stop: int, who: str) -> None:
        """Raise :class:`WrongVideoError` if the catalogue, looked at again, has fewer rows than `who` knows."""
        if stop > self._catalogue.num_rows:
            self._catalogue = Catalogue(self._backend, self._dataset)
        if stop > self._catalogue.num_rows:
            raise WrongVideoError(
                f"dataset {self._dataset}: expected a catalogue of at least {stop} videos, as {who} knows row "
                f"{stop - 1}, found {self._catalogue.num_rows}; catalogue files are missing. Restore "
                f"{self._dataset}/catalog from a backup; nothing is added until then, because new videos would get "
                "the rows of those that are missing"
            )
