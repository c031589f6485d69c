"""Storage that fails, tears or dies at the n-th step: for tests that try every n.

Use it like this::

    counter = FaultPlan()                               # first run: only counts
    work(FaultyLocalBackend(folder, counter))
    for n in range(counter.count):
        plan = FaultPlan(at=n, action="fail")           # or "tear", or "kill" in a subprocess
        with suppress(PipelineError):
            work(FaultyLocalBackend(folder, plan))
        check_invariants(LocalBackend(folder))

``FeatureStore.open`` and ``.create`` take a backend in the place of an address.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import StorageError
from pipeline.storage.backend import BytesLike, StorageBackend
from pipeline.storage.backend_local import Disk, LocalBackend

STEPS = ("write", "fsync", "replace", "link", "unlink", "put", "create", "delete")
ACTIONS = ("fail", "tear", "late", "kill")


class FaultPlan:
    """Counts steps and goes wrong at one of them.

    Parameters
    ----------
    at : int, optional
        Which step (from 0, among those of `kinds`) goes wrong; None: only count.
    action : {"fail", "tear", "late", "kill"}
        ``fail``: an I/O error and nothing done. ``tear``: half of the bytes are written, then an I/O error (for steps
        without bytes the same as ``fail``). ``late``: the step is done, and then reported as failed.
        ``kill``: SIGKILL to this process, with half of the bytes written.
    kinds : tuple of str
        Which steps count: ``write``, ``fsync``, ``replace``, ``link``, ``unlink`` (local), ``put``, ``create``,
        ``delete`` (any backend).
    forever : bool
        Whether every later step fails too (a full disk, a dead network).
    """

    def __init__(
        self, at: int | None = None, action: str = "fail", kinds: tuple[str, ...] = STEPS, forever: bool = False
    ) -> None:
        assert action in ACTIONS, action
        assert set(kinds) <= set(STEPS), kinds
        self.at, self.action, self.kinds, self.forever = at, action, kinds, forever
        self.count = 0
        self.log: list[str] = []
        self._lock = threading.Lock()

    @property
    def fired(self) -> bool:
        """Whether the fault has happened."""
        return self.at is not None and self.count > self.at

    def due(self, kind: str, target: object) -> bool:
        """Count one step; return whether it is to go wrong."""
        if kind not in self.kinds:
            return False
        with self._lock:
            n = self.count
            self.count += 1
            self.log.append(f"{n} {kind} {target}")
        return self.at is not None and (n == self.at or (self.forever and n > self.at))

    def error(self, kind: str) -> OSError:
        return OSError(errno.EIO, f"injected failure of {kind}")

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()


class FaultyDisk(Disk):
    """System calls of which one goes wrong."""

    def __init__(self, plan: FaultPlan) -> None:
        self.plan = plan

    def write(self, path: Path, data: BytesLike) -> None:
        if not self.plan.due("write", path.name):
            super().write(path, data)
            return
        if self.plan.action in ("tear", "kill"):
            path.write_bytes(bytes(memoryview(data).cast("B"))[: memoryview(data).nbytes // 2])
        elif self.plan.action == "late":
            super().write(path, data)
        self._stop("write")

    def fsync(self, fd: int) -> None:
        self._step("fsync", os.readlink(f"/proc/self/fd/{fd}"), lambda: super(FaultyDisk, self).fsync(fd))

    def replace(self, source: Path, target: Path) -> None:
        self._step("replace", target.name, lambda: super(FaultyDisk, self).replace(source, target))

    def link(self, source: Path, target: Path) -> None:
        self._step("link", target.name, lambda: super(FaultyDisk, self).link(source, target))

    def unlink(self, path: Path) -> None:
        self._step("unlink", path.name, lambda: super(FaultyDisk, self).unlink(path))

    def _step(self, kind: str, target: object, action: Any) -> None:
        due = self.plan.due(kind, target)
        if not due or self.plan.action == "late":
            action()
        if due:
            self._stop(kind)

    def _stop(self, kind: str) -> None:
        if self.plan.action == "kill":
            self.plan.kill()
        raise self.plan.error(kind)


class FaultyLocalBackend(LocalBackend):
    """A local folder whose n-th system call goes wrong (also below zarr: its writes take the same calls)."""

    def __init__(self, root: str | Path, plan: FaultPlan) -> None:
        super().__init__(root, FaultyDisk(plan))
        self.plan = plan

    def put(self, key: str, data: BytesLike) -> None:
        self._guarded("put", key, data)

    def create(self, key: str, data: BytesLike) -> None:
        self._guarded("create", key, data)

    def delete(self, key: str) -> None:
        if self.plan.due("delete", key):
            if self.plan.action == "late":
                super().delete(key)
            self._stop("delete")
        super().delete(key)

    def _guarded(self, verb: str, key: str, data: BytesLike) -> None:
        action = getattr(super(), verb)
        if not self.plan.due(verb, key):
            action(key, data)
            return
        if self.plan.action == "late":
            action(key, data)
        self._stop(verb)

    def _stop(self, kind: str) -> None:
        if self.plan.action == "kill":
            self.plan.kill()
        raise StorageError(f"expected to {kind}, found: {self.plan.error(kind)}; try again")


class FaultyBackend:
    """Any backend (an object store, say) whose n-th put, create or delete goes wrong. Single puts never tear.

    Writes through ``zarr_store()`` are counted too.
    """

    def __init__(self, inner: StorageBackend, plan: FaultPlan) -> None:
        self.inner, self.plan = inner, plan

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def is_local(self) -> bool:
        return self.inner.is_local

    def put(self, key: str, data: BytesLike) -> None:
        self._step("put", key, lambda: self.inner.put(key, data))

    def create(self, key: str, data: BytesLike) -> None:
        self._step("create", key, lambda: self.inner.create(key, data))

    def delete(self, key: str) -> None:
        self._step("delete", key, lambda: self.inner.delete(key))

    def delete_all(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)

    def zarr_store(self, *, read_only: bool = True) -> Any:
        store = self.inner.zarr_store(read_only=read_only)
        plan, outer = self.plan, self

        class Counted(type(store)):  # type: ignore[misc]
            async def set(self, key: str, value: Any) -> None:
                due = plan.due("put", key)
                if not due or plan.action == "late":
                    await super().set(key, value)
                if due:
                    outer._stop("put")

        store.__class__ = Counted
        return store

    def _step(self, kind: str, key: str, action: Any) -> None:
        due = self.plan.due(kind, key)
        if not due or self.plan.action == "late":
            action()
        if due:
            self._stop(kind)

    def _stop(self, kind: str) -> None:
        if self.plan.action == "kill":
            self.plan.kill()
        raise StorageError(f"expected to {kind}, found: {self.plan.error(kind)}; try again")
