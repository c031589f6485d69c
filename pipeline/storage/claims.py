"""Claims: who works on a shard right now, so that two overlapping runs share the work instead of repeating it.

A claim is a small file ``<name>-<number>.json`` that is created exclusively. It names its owner and when it expires; a
thread of the owner renews it. Taking over an expired claim means creating the next number, which exactly one worker
can, so no delete-then-create race exists. A claim saves work; it is never what keeps a commit safe: the ledger
entry's exclusive creation is.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType

from pipeline.errors import AlreadyExistsError, NotFoundError, PipelineError
from pipeline.storage.backend import StorageBackend
from pipeline.storage.schema import NUMBER

_FILE = re.compile(rf"(.+)-{NUMBER}\.json\Z")

_held: set[str] = set()
"""Tokens that this process holds. A file of ours with another one is what a create or delete left that failed."""


@cache
def _host() -> str:
    """Identify the machine's current boot and the process namespace, within which a process number means something."""
    parts = [socket.gethostname()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            parts.append(read())
        except OSError:
            parts.append("-")
    return "/".join(parts)


def _started(pid: int) -> str | None:
    """Return when a process of this machine started, in kernel ticks; None when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a claim, and until when."""

    token: str
    host: str
    pid: int
    started: str | None
    expires_at: float
    """Unix time."""

    def is_dead(self, now: float) -> bool:
        """Whether the claim counts no longer: expired, its process on this machine gone, or let go by this process."""
        if now >= self.expires_at:
            return True
        if self.host == _host() and self.pid == os.getpid():
            return self.token not in _held
        return self.host == _host() and self.started is not None and _started(self.pid) != self.started


class Claim:
    """A held claim; a context manager. Renewed by a thread until it is released."""

    def __init__(self, claims: Claims, name: str, number: int, ttl_s: float) -> None:
        self._claims = claims
        self.name = name
        self.number = number
        self.ttl_s = ttl_s
        self.token = uuid.uuid4().hex
        self.is_lost = False
        """True when it expired unrenewed and another worker took over."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._renew_until_stopped, name=f"claim-{self.name}", daemon=True)
        self._thread.start()

    def _renew_until_stopped(self) -> None:
        while not self._stop.wait(self.ttl_s / 3):
            try:
                newest = self._claims._newest(self.name)
                if newest is None or newest[0] != self.number or newest[1] is None or newest[1].token != self.token:
                    self.is_lost = True
                    return
                self._claims._put(self)
            except PipelineError:
                continue  # storage hiccup: the next third of the time to live tries again

    def release(self) -> None:
        """Give it back; others may claim at once."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        _held.discard(self.token)
        if not self.is_lost:
            self._claims._delete(self)

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Claims:
    """The claims in one folder.

    Parameters
    ----------
    folder : str
        Key of the folder.
    clock : callable
        Unix time; replaced in tests.
    """

    def __init__(self, backend: StorageBackend, folder: str, clock: Callable[[], float] = time.time) -> None:
        self._backend = backend
        self.folder = folder
        self._clock = clock

    def claim(self, name: str, ttl_s: float = 300.0) -> Claim | None:
        """Claim a name, or return None when a live worker holds it."""
        newest = self._newest(name)
        number = 0
        if newest is not None:
            number, owner = newest
            if owner is not None and not owner.is_dead(self._clock()):
                return None
            number += 1
        claim = Claim(self, name, number, ttl_s)
        _held.add(claim.token)
        try:
            self._backend.create(self._key(name, number), self._content(claim))
            for old in range(max(0, number - 8), number):
                self._backend.delete(self._key(name, old))
            claim._start()
        except AlreadyExistsError:
            _held.discard(claim.token)
            return None
        except BaseException:  # an interrupt, too: the file may be there by now
            self._take_back(claim)
            raise
        return claim

    def _take_back(self, claim: Claim) -> None:
        claim._stop.set()
        _held.discard(claim.token)
        with suppress(PipelineError):
            newest = self._newest(claim.name)
            if newest is not None and newest[1] is not None and newest[1].token == claim.token:
                self._delete(claim)

    def wait(self, name: str, ttl_s: float, timeout_s: float) -> Claim | None:
        """Claim a name as soon as it is free; None when that takes longer than `timeout_s`."""
        pause_s, waited_s = 0.01, 0.0
        while (claim := self.claim(name, ttl_s)) is None:
            if waited_s >= timeout_s:
                return None
            time.sleep(pause_s)
            waited_s += pause_s
            pause_s = min(pause_s * 2, 0.5)
        return claim

    def holders(self) -> dict[str, Owner]:
        """Return the live claims by name."""
        names = {m[1] for key, _ in self._backend.list(self.folder, recursive=False) if (m := _match(key))}
        found = {name: self._newest(name) for name in sorted(names)}
        now = self._clock()
        return {n: f[1] for n, f in found.items() if f is not None and f[1] is not None and not f[1].is_dead(now)}

    def expired(self) -> list[str]:
        """Return the keys of claim files that no live worker holds."""
        live = self.holders()
        return [k for k, _ in self._backend.list(self.folder, recursive=False) if (m := _match(k)) and m[1] not in live]

    def _newest(self, name: str) -> tuple[int, Owner | None] | None:
        """Return the highest number and its owner (None: unreadable, which counts as dead)."""
        numbers = [int(m[2]) for key, _ in self._backend.list(self.folder, recursive=False)
                   if (m := _match(key)) and m[1] == name]  # fmt: skip
        if not numbers:
            return None
        number = max(numbers)
        try:
            content = json.loads(self._backend.read(self._key(name, number)))
            owner = Owner(**{field: content[field] for field in Owner.__slots__})
            return number, Owner(
                str(owner.token), str(owner.host), int(owner.pid), owner.started, float(owner.expires_at)
            )
        except NotFoundError:
            return number, None
        except (ValueError, KeyError, TypeError):
            return number, None

    def _content(self, claim: Claim) -> bytes:
        pid = os.getpid()
        owner = {"token": claim.token, "host": _host(), "pid": pid, "started": _started(pid),
                 "expires_at": self._clock() + claim.ttl_s}  # fmt: skip
        return json.dumps(owner).encode()

    def _put(self, claim: Claim) -> None:
        self._backend.put(self._key(claim.name, claim.number), self._content(claim))

    def _delete(self, claim: Claim) -> None:
        self._backend.delete(self._key(claim.name, claim.number))

    def _key(self, name: str, number: int) -> str:
        return f"{self.folder}/{name}-{number}.json"


def _match(key: str) -> re.Match[str] | None:
    return _FILE.match(key.rpartition("/")[2])
