"""A sign of life from long work: decoding beats once a frame, so that whoever watches can tell slow from stuck."""

from __future__ import annotations

from collections.abc import Callable


def _unwatched() -> None:
    return None


beat: Callable[[], None] = _unwatched
"""Called for every packet and frame; a worker process replaces it. Look it up at each call: ``heartbeat.beat()``."""
