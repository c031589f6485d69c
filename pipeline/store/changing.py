"""What a handle changes of rows that are there: labels, facts, removals, whole sets; no array byte before it has to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.events import OnEvent, ignore
from pipeline.names import check_name
from pipeline.store.dropping import drop_feature_set
from pipeline.store.handle import Pinned
from pipeline.store.labels import HAND, ChangedLabels
from pipeline.store.selection import check_rows
from pipeline.store.withdrawal import ErasedRows, commit_removal, erase_rows


class Changing(Pinned):
    """A handle that changes rows; it sees what it has changed."""

    def change_labels(self, changes: Mapping[int, Mapping[str, Any]], by: str = HAND) -> ChangedLabels:
        """Give rows other labels, splits or groups, as one commit; this handle then sees them. No feature is touched.

        Parameters
        ----------
        changes : mapping of row to mapping
            Some of label, labels, splits (split name -> train, val or test) and group; what is not named stays.
        by : {"hand", "recipe"}
            What is said by hand is not taken back by the next run of a recipe.

        Raises
        ------
        InvalidInputError
            If there is no such row or column.
        """
        self._check_writable()
        return self._change_labels(check_rows(sorted(changes), self.num_rows), changes, by)

    def change_facts(self, facts: Mapping[int, Mapping[str, Any]]) -> int:
        """Give rows the facts of a file that was late, broken or replaced, as one commit; this handle then sees them.

        What was made from these rows' files before counts no more: they are pending in every set. Their bytes stay
        until they are made again.

        Parameters
        ----------
        facts : mapping of row to mapping
            The catalogue's columns from `uri` to `start_frame`, and `probe_error`.

        Returns
        -------
        int
            Rows that are new to the store in that state.
        """
        self._check_writable()
        return self._change_facts(check_rows(sorted(facts), self.num_rows), facts)

    def remove_videos(self, rows: Sequence[int] | np.ndarray, *, erase: bool = False) -> int:
        """Take videos out of every answer at once; their rows stay taken. Returns how many were in one.

        Parameters
        ----------
        rows : sequence of int
        erase : bool
            Mark them for :meth:`erase_removed`, which takes them out of every byte.
        """
        self._check_writable()
        num_removed = commit_removal(self._backend, self.name, check_rows(rows, self.num_rows), erase=erase)
        self._open(self._store, self.name, self.shard_rows)
        return num_removed

    def erase_removed(self, on_event: OnEvent = ignore) -> ErasedRows:
        """Take what :meth:`remove_videos` marked out of every byte; goes on where a killed process stopped.

        Raises
        ------
        ConflictError
            If a run wrote meanwhile, so that something holds a video still.
        """
        self._check_writable()
        erased = erase_rows(self._backend, self.name, on_event)
        self._open(self._store, self.name, self.shard_rows)
        return erased

    def drop_features(self, crops: str, feature_set: str) -> int:
        """Delete a feature set whole, its ledger and unshared geometry included; return the bytes that went."""
        self._check_writable()
        num_bytes = drop_feature_set(self._backend, self.name, check_name(crops), check_name(feature_set))
        self._open(self._store, self.name, self.shard_rows)
        return num_bytes
