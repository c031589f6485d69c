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
from typing import Any

from extract.decode_worker import create_memory_file

_START_TIMEOUT_S = 120.0
_POLL_S = 1.0


class WorkerFailedError(Exception):
    """The worker died or was ended; the text says how."""


class WorkerProcess:
    """One child process and the socket to it."""

    def __init__(self, *, opener: str, max_bytes: int, memory_limit: int) -> None:
        ours, theirs = socket.socketpair()
        beats = create_memory_file(8)
        self._beats = mmap.mmap(beats, 8)
        numbers = (theirs.fileno(), beats, os.getpid(), max_bytes, memory_limit)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "extract.decode_worker", *map(str, numbers), opener],
            pass_fds=(theirs.fileno(), beats),
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        theirs.close()
        os.close(beats)
        self.connection = Connection(ours.detach())
        self._is_ready = False

    def ask(self, verb: str, *, timeout_s: float, limit_s: float, **arguments: Any) -> Any:
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
        except OSError:
            raise WorkerFailedError(self._how_it_died()) from None
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
            raise WorkerFailedError(self._how_it_died()) from None

    def _count(self) -> int:
        return int(struct.unpack_from("<Q", self._beats, 0)[0])

    def _how_it_died(self) -> str:
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
            code = 0
        if code < 0:
            return f"the decoder crashed ({signal.Signals(-code).name})"
        return f"the decoding process ended (exit code {code})"

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
