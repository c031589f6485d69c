"""The stores that are served: opened once for reading, looked at again in the background when they may have changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from pipeline import Dataset, FeatureStore
from pipeline.errors import InvalidInputError, NotFoundError
from pipeline.names import check_name

RESERVED = frozenset({"api", "metrics", "healthz"})
REFRESH_S = 5.0
"""Age from which a handle is compared with the present; until the comparison ends, the old one answers."""


@dataclass
class HeldDataset:
    """One moment of a dataset, with what pages compute from it once."""

    dataset: Dataset
    opened_at: float
    memo: dict[Any, Any] = field(default_factory=dict)
    """Answers of this moment; they go with it."""

    @cached_property
    def snapshot(self) -> str:
        """The id of what is seen."""
        return self.dataset.snapshot()

    @cached_property
    def videos(self) -> pa.Table:
        """A line for every row; of a removed video nothing but its number."""
        return self.dataset.by_row

    @cached_property
    def present(self) -> np.ndarray:
        """(num_rows,) bool: False where the video was removed."""
        there = np.zeros(self.videos.num_rows, bool)
        there[self.dataset.videos["row"].to_numpy()] = True
        return there


class ServedStore:
    """One store under a short name."""

    def __init__(self, name: str, store: FeatureStore, *, refresh_s: float = REFRESH_S) -> None:
        self.name, self.store = name, store
        self._refresh_s = refresh_s
        self._held: dict[str, HeldDataset] = {}
        self._lock = threading.Lock()
        self._looking: set[str] = set()

    def datasets(self) -> list[str]:
        """Return the names of its datasets."""
        return self.store.datasets()

    def dataset(self, name: str) -> HeldDataset:
        """Return a recent moment of a dataset.

        Raises
        ------
        NotFoundError
            If there is none of this name.
        """
        held = self._held.get(name)
        if held is None:
            held = HeldDataset(self.store.dataset(name), time.monotonic())
            with self._lock:
                held = self._held.setdefault(name, held)
        elif time.monotonic() - held.opened_at > self._refresh_s:
            self._look_again(name, held)
        return held

    def renewed(self, name: str) -> HeldDataset:
        """Return the present moment, for who met a store that was rewritten under its handle."""
        held = HeldDataset(self.store.dataset(name), time.monotonic())
        with self._lock:
            self._held[name] = held
        return held

    def _look_again(self, name: str, held: HeldDataset) -> None:
        with self._lock:
            if name in self._looking:
                return
            self._looking.add(name)
        threading.Thread(target=self._refresh, args=(name, held), daemon=True, name=f"refresh-{name}").start()

    def _refresh(self, name: str, held: HeldDataset) -> None:
        try:
            fresh = HeldDataset(self.store.dataset(name), time.monotonic())
            if fresh.snapshot == held.snapshot and artifact_names(fresh.dataset) == artifact_names(held.dataset):
                held.opened_at = fresh.opened_at
                return
            with self._lock:
                self._held[name] = fresh
        except NotFoundError:
            with self._lock:
                self._held.pop(name, None)
        except Exception:  # the store is being repaired or out of reach: the old moment goes on answering
            held.opened_at = time.monotonic()
        finally:
            with self._lock:
                self._looking.discard(name)


def artifact_names(dataset: Dataset) -> dict[str, list[str]]:
    """Return the names of models, indexes and reports."""
    return {kind: list(dataset.artifacts(kind)) for kind in ("models", "indexes", "reports")}


def open_stores(urls: Sequence[str], *, refresh_s: float = REFRESH_S) -> Mapping[str, ServedStore]:
    """Open stores for reading under the last part of their address, or `name=address`.

    Raises
    ------
    InvalidInputError
        If two would have the same name.
    StoreNotFoundError
        If there is no store at an address.
    """
    served: dict[str, ServedStore] = {}
    for url in urls:
        name, has_name, address = url.partition("=")
        if not has_name or "/" in name or "://" in name:
            name, address = PurePosixPath(urlsplit(url).path.rstrip("/") if "://" in url else url).name, url
        name = check_name(name or "store")
        if name in RESERVED:
            raise InvalidInputError(f"expected another name than {name!r}, an address of ours; give NAME=ADDRESS")
        if name in served:
            raise InvalidInputError(
                f"expected stores of different names, found {name!r} twice; give one as NAME=ADDRESS"
            )
        served[name] = ServedStore(name, FeatureStore.open(address), refresh_s=refresh_s)
    if not served:
        raise InvalidInputError("expected at least one store to serve, found none")
    return served
