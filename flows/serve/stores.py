"""The stores that are served: opened once for reading, looked at again in the background when they may have changed."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from pipeline import Dataset, FeatureStore
from pipeline.errors import InvalidInputError, NotFoundError, PipelineError
from pipeline.names import check_name
from pipeline.storage.schema import ARTIFACT_KINDS

_OWN = re.compile(r"/_(claims|lock|previous)(/|\Z)")
"""What writers keep for themselves while they work."""
RESERVED = frozenset({"api", "metrics", "healthz"})
REFRESH_S = 5.0
"""Age from which a handle is compared with the present; until the comparison ends, the old one answers."""
REFRESH_SHARE = 0.1
"""Of the time at most that goes into looking again, while somebody writes to a large store all the time."""
Warm = Callable[["HeldDataset"], None]


@dataclass
class HeldDataset:
    """One moment of a dataset, with what pages compute from it once."""

    dataset: Dataset
    opened_at: float
    marks: str | None = None
    """Names and sizes of the files that decide what is seen; None where they could not be listed."""
    memo: dict[Any, Any] = field(default_factory=dict)
    """Answers of this moment; they go with it."""
    locks: dict[Any, threading.Lock] = field(default_factory=dict, repr=False)
    """Held while an answer is made."""
    recent: OrderedDict[Any, np.ndarray] = field(default_factory=OrderedDict, repr=False)
    """Rows that were chosen last, by what chose them."""

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
        self._last_s: dict[str, float] = {}
        self.warm: Warm | None = None
        """Makes what pages ask first of a new moment, before it answers."""
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
            held = self._opened(name)
            with self._lock:
                held = self._held.setdefault(name, held)
        elif time.monotonic() - held.opened_at > max(self._refresh_s, self._last_s.get(name, 0.0) / REFRESH_SHARE):
            self._look_again(name, held)
        return held

    def at_hand(self, name: str) -> HeldDataset | None:
        """Return a recent moment of a dataset that is open already, and needs no look at the store."""
        held = self._held.get(name)
        return held if held is not None and time.monotonic() - held.opened_at <= self._refresh_s else None

    def _opened(self, name: str) -> HeldDataset:
        marks = present_marks(self.store, name)  # first: what changes meanwhile is seen the next time
        return HeldDataset(self.store.dataset(name), time.monotonic(), marks)

    def _look_again(self, name: str, held: HeldDataset) -> None:
        with self._lock:
            if name in self._looking:
                return
            self._looking.add(name)
        threading.Thread(target=self._refresh, args=(name, held), daemon=True, name=f"refresh-{name}").start()

    def _refresh(self, name: str, held: HeldDataset) -> None:
        began = time.monotonic()
        try:
            if held.marks is not None and present_marks(self.store, name) == held.marks:
                held.opened_at = began
                return
            fresh = self._opened(name)
            if fresh.snapshot == held.snapshot and artifact_names(fresh.dataset) == artifact_names(held.dataset):
                held.opened_at, held.marks = fresh.opened_at, fresh.marks
                return
            if self.warm is not None and fresh.dataset.num_videos >= held.dataset.num_videos:
                self.warm(fresh)  # what was removed is not answered a moment longer than it must
            fresh.opened_at = time.monotonic()
            with self._lock:
                self._held[name] = fresh
        except NotFoundError:
            with self._lock:
                self._held.pop(name, None)
        except Exception:  # the store is being repaired or out of reach: the old moment goes on answering
            held.opened_at = time.monotonic()
        finally:
            self._last_s[name] = time.monotonic() - began
            with self._lock:
                self._looking.discard(name)


def present_marks(store: FeatureStore, dataset: str) -> str | None:
    """Return a hash of the names and sizes of all files that decide what a dataset is: a change of any is seen.

    Everything that is committed is a new file, or (a description, an erased catalogue) one of another size beside a new
    one; so who finds the same names need not read a byte.
    """
    backend, digest = store.backend, hashlib.sha256()
    try:
        folders = [f"{dataset}/{place}" for place in ("catalog", "previews", *ARTIFACT_KINDS)]
        folders += [f"{dataset}/crops/{crops}/ledger" for crops in backend.folders(f"{dataset}/crops")]
        folders += [f"{dataset}/embeddings/{name}/ledger" for name in backend.folders(f"{dataset}/embeddings")]
        for folder in folders:
            for key, size in backend.list(folder):
                if not _OWN.search(key):
                    digest.update(f"{key}:{size}\n".encode())
    except PipelineError:
        return None
    return digest.hexdigest()


def artifact_names(dataset: Dataset) -> dict[str, list[str]]:
    """Return the names of models, indexes and reports."""
    return {kind: list(dataset.artifacts(kind)) for kind in ("models", "indexes", "reports", "maps")}


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
