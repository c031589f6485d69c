"""One decoding process, seen from its parent: asked, watched, and ended when it hangs."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Any

import numpy as np

from extract.decoding.frame_memory import BufferOrder, SharedBuffer, create_memory_file

_START_TIMEOUT_S = 120.0
_POLL_S = 1.0


_CRASHES = frozenset({"SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL", "SIGSYS", "SIGTRAP"})
"""Signals that a process earns itself. Others come from outside."""


class WorkerFailedError(Exception):
    """The worker died or was ended; the text says how.

    Attributes
    ----------
    is_from_outside : bool
        Whether it was killed, or never began: nothing is known of the file then.
    """

    def __init__(self, message: str, *, is_from_outside: bool = False) -> None:
        super().__init__(message)
        self.is_from_outside = is_from_outside


class WorkerProcess:
    """One child process and the socket to it."""

    def __init__(self, *, opener: str, max_bytes: int, memory_limit: int) -> None:
        ours, theirs = socket.socketpair()
        beats = create_memory_file(8)
        self._beats = mmap.mmap(beats, 8)
        numbers = (theirs.fileno(), beats, os.getpid(), max_bytes, memory_limit)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "extract.decoding.decode_worker", *map(str, numbers), opener],
                pass_fds=(theirs.fileno(), beats),
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(beats)
        self.connection = Connection(ours.detach())
        self._is_ready = False
        self._mapped = BufferOrder(max_bytes)

    def read_into(self, buffer: SharedBuffer, indices: np.ndarray, *, timeout_s: float, limit_s: float) -> Any:
        """Have frames of the opened video written into a buffer; see :meth:`ask`."""
        is_new = buffer.number not in self._mapped
        self._mapped.use(buffer.number, buffer.num_bytes)
        answer = self.ask(
            "read",
            timeout_s=timeout_s,
            limit_s=limit_s,
            descriptor=buffer.descriptor if is_new else None,
            indices=indices,
            number=buffer.number,
            num_bytes=buffer.num_bytes,
            is_new=is_new,
        )
        if answer[0] == "failed":
            self._mapped.forget(buffer.number)
        return answer

    def ask(
        self, verb: str, *, timeout_s: float, limit_s: float, descriptor: int | None = None, **arguments: Any
    ) -> Any:
        """Send a request and wait for the answer.

        Raises
        ------
        WorkerFailedError
            If the process died, was silent for `timeout_s`, or took longer than `limit_s`.
        """
        if not self._is_ready:
            self._receive(_START_TIMEOUT_S, _START_TIMEOUT_S)
            self._is_ready = True
        try:
            self.connection.send((verb, arguments))
            if descriptor is not None:
                send_handle(self.connection, descriptor, self.process.pid)
        except OSError:
            raise self._death() from None
        return self._receive(timeout_s, limit_s)

    def _receive(self, timeout_s: float, limit_s: float) -> Any:
        started = last_sign = time.monotonic()
        beats = self._count()
        try:
            while not self.connection.poll(min(_POLL_S, timeout_s)):
                now = time.monotonic()
                if self._count() != beats:
                    beats, last_sign = self._count(), now
                if now - last_sign >= timeout_s or now - started >= limit_s:
                    self.kill()
                    silent = now - last_sign >= timeout_s
                    raise WorkerFailedError(
                        f"the decoder gave no sign of life for {timeout_s:g} s"
                        if silent
                        else f"decoding was not done after {limit_s:g} s"
                    )
            return self.connection.recv()
        except (EOFError, OSError):
            raise self._death() from None
        except BaseException:  # interrupted: an answer would still come, and be taken for that to the next question
            self.kill()
            raise

    def _count(self) -> int:
        return int(struct.unpack_from("<Q", self._beats, 0)[0])

    def _death(self) -> WorkerFailedError:
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
            code = 0
        if code < 0:
            name = signal.Signals(-code).name
            if name in _CRASHES:
                return WorkerFailedError(f"the decoder crashed ({name})")
            why = "; the system does that when memory runs out" if name == "SIGKILL" else ""
            return WorkerFailedError(f"the decoding process was killed ({name}{why})", is_from_outside=True)
        began = "" if self._is_ready else " before it began"
        return WorkerFailedError(
            f"the decoding process ended{began} (exit code {code})", is_from_outside=not self._is_ready
        )

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait()
        self.connection.close()

    def stop(self) -> None:
        """Hang up; the process ends by itself, or is ended."""
        self.connection.close()
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
