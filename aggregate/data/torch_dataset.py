"""A selection as a map-style torch Dataset, for training loops of one's own and for `DataLoader` with workers.

The project's own trainer reads batches (:mod:`aggregate.data.loader`), which is faster: whole batches, no worker
processes, no collation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from pipeline.store.selection import Selection


class FeatureDataset(Dataset[dict[str, Any]]):
    """Features of a selection, one item a video.

    Hand it to `DataLoader` as it is: with workers, start them by ``multiprocessing_context="spawn"`` (it pickles as an
    address and opens its own files there). A whole batch is read at once.

    Parameters
    ----------
    selection : Selection
        Its order is the order of the items.
    crops, feature_set : str
        Which features.

    Attributes
    ----------
    classes : tuple of str
        Labels of the selection, sorted; an item's `label` is a place in it.
    """

    def __init__(self, selection: Selection, crops: str, feature_set: str) -> None:
        selection.dataset.feature_info(crops, feature_set)  # raises here, not in a worker, where there is none
        self.selection, self.crops, self.feature_set = selection, crops, feature_set
        labels = selection.videos["label"].to_pylist()
        self.classes = tuple(sorted({label for label in labels if label is not None}))
        places = {label: place for place, label in enumerate(self.classes)}
        self.labels = np.array([places.get(label, -1) for label in labels], np.int64)

    def __len__(self) -> int:
        return len(self.selection)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """Return one video: `values` (V, D), `valid` (V,), `geometry` (V, 9), `row` and `label` (-1: none)."""
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """Return several videos, read together; `DataLoader` calls this once a batch."""
        picked = np.asarray(places, np.int64)
        block = self.selection.at(picked).features(self.crops, self.feature_set)
        values, valid, geometry = (
            torch.from_numpy(np.array(array)) for array in (block.values, block.valid, block.geometry)
        )
        return [
            {"values": values[i], "valid": valid[i], "geometry": geometry[i], "row": int(block.rows[i]),
             "label": int(self.labels[place])}
            for i, place in enumerate(picked.tolist())
        ]  # fmt: skip
