"""Readers that misbehave as told by the file's name; opened in a pool's worker process."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from extract.decoding import heartbeat
from extract.decoding.decode import DecodedFrames, PyavReader
from extract.decoding.opening import open_reader


class BadReader(PyavReader):
    """Hangs, crashes, stops or dawdles when it is read."""

    def read(self, indices: np.ndarray, out: np.ndarray | None = None) -> DecodedFrames:
        misbehave(self.path.stem)
        return super().read(indices, out)


def open_bad_reader(path: Path, **options: Any) -> PyavReader:
    """Open a reader; names with `open` in them misbehave here already."""
    if "open" in path.stem:
        misbehave(path.stem)
    reader = open_reader(path, **options)
    assert isinstance(reader, PyavReader)
    reader.__class__ = BadReader
    return reader


def misbehave(name: str) -> None:
    """Do what the name says: crash, hang, exit, kill, defect, slow; `once` in it: only the first time."""
    if "once" in name:
        mark = Path(os.environ["SCALE_TEST_MARKS"]) / name
        if mark.exists():
            return
        mark.touch()
    if "crash" in name:
        ctypes.string_at(0)
    if "kill" in name:
        os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory runs out
    if "hang" in name:
        time.sleep(3600)
    if "exit" in name:
        os._exit(7)
    if "defect" in name:
        raise KeyError("a defect of ours")
    if "slow" in name:
        for _ in range(12):
            time.sleep(0.1)
            heartbeat.beat()
    if "endless" in name:
        while True:
            time.sleep(0.02)
            heartbeat.beat()
