"""The process that touches video bytes: opens, inspects and decodes for its parent, and may die doing so.

Started by :mod:`extract.decoding.decode_pool` as ``python -m extract.decoding.decode_worker``.
Requests and answers travel over a socket, frames in memory that the parent
lends, so that nothing is copied and nothing is left behind when either side is
killed.
"""

from __future__ import annotations

import importlib
import logging
import math
import mmap
import os
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path
from typing import Any

import av.logging
import numpy as np

from extract.decoding import heartbeat
from extract.decoding.decode import VideoReader
from extract.decoding.frame_memory import MappedBuffers
from extract.decoding.inspect import inspect_video
from extract.sound.spectrogram import SoundSpec
from pipeline.errors import InvalidInputError, VideoError

_PARENT_CHECK_S = 2.0


class Worker:
    """Serves the requests of one parent, one after the other."""

    def __init__(self, connection: Connection, opener: Callable[..., VideoReader], max_bytes: int) -> None:
        self._connection = connection
        self._opener = opener
        self._buffers = MappedBuffers(max_bytes)
        self._reader: VideoReader | None = None

    def serve(self) -> None:
        """Answer until the parent hangs up."""
        while True:
            try:
                verb, arguments = self._connection.recv()
            except (EOFError, OSError):
                return
            try:
                answer = getattr(self, f"_do_{verb}")(**arguments)
            except VideoError as error:
                answer = ("failed", str(error), error.status)
            except InvalidInputError as error:
                answer = ("refused", str(error), "")
            except MemoryError:
                answer = ("failed", "not enough memory for its frames", "unreadable")
            except Exception as error:  # a defect of ours must cost this video, not the run; its row says where
                answer = ("failed", _where(error), "unreadable")
            self._connection.send(answer)

    def _do_open(self, path: str, options: dict[str, Any]) -> tuple:
        self._do_close()
        reader = self._opener(Path(path), **options)
        self._reader = reader
        facts = (reader.info, reader.frame_times_s, reader.decoder_name, reader.decoder_version)
        return ("opened", facts, (reader.height, reader.width))

    def _do_read(self, indices: np.ndarray, number: int, num_bytes: int, is_new: bool) -> tuple:
        descriptor = recv_handle(self._connection) if is_new else None
        reader = self._reader
        assert reader is not None
        shape = (len(indices), reader.height, reader.width, 3)
        out = self._buffers.map(number, num_bytes, descriptor)[: math.prod(shape)].reshape(shape)
        decoded = reader.read(indices, out)
        return ("frames", decoded.indices, decoded.error, decoded.untrue, decoded.damage)

    def _do_sound(self, spans_s: np.ndarray, spec: SoundSpec) -> tuple:
        assert self._reader is not None
        return ("sound", self._reader.read_sound(spans_s, spec))

    def _do_inspect(self, path: str, image_fps: float) -> tuple:
        return ("info", inspect_video(Path(path), hash_bytes=True, image_fps=image_fps))

    def _do_close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _where(error: Exception) -> str:
    """Say in one line what went wrong and where in our code."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"a defect of the reader: {type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"


def _watch_parent(parent: int) -> None:
    """End the process when its parent is gone, even in the middle of a decode that never returns."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)


def _beat_into(descriptor: int) -> None:
    memory = mmap.mmap(descriptor, 8)
    count = 0

    def beat() -> None:
        nonlocal count
        count += 1
        struct.pack_into("<Q", memory, 0, count)

    heartbeat.beat = beat


def _limit_memory(max_bytes: int) -> None:
    """Make allocations fail in this process before a monstrous frame brings the whole machine down."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
    except (ImportError, ValueError, OSError):
        logging.getLogger(__name__).debug("no memory limit on this system")


def main(arguments: list[str]) -> None:
    """Serve the parent at the other end of the socket whose descriptor is given."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent ends us
    socket, beats, parent, max_bytes, limit, opener_name = arguments
    # one thread decodes here, so FFmpeg's messages are safe to collect: they say why a file is broken
    logging.getLogger("libav").addHandler(logging.NullHandler())
    logging.getLogger("libav").propagate = False
    av.logging.set_level(av.logging.ERROR)
    _beat_into(int(beats))
    threading.Thread(target=_watch_parent, args=(int(parent),), daemon=True).start()
    module, _, name = opener_name.partition(":")
    opener = getattr(importlib.import_module(module), name)
    if int(limit):
        _limit_memory(int(limit))
    connection = Connection(int(socket))
    try:
        connection.send(("ready", os.getpid()))
    except OSError:  # the parent has hung up by now
        return
    Worker(connection, opener, int(max_bytes)).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
