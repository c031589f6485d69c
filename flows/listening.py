"""Events of the core as Prefect logs and progress artifacts."""

from __future__ import annotations

import time
from logging import Logger, LoggerAdapter
from types import TracebackType
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from flows.heartbeat import Pulse, without_stage
from pipeline import events
from pipeline.printable import on_one_line, printable

UPDATE_EVERY_S = 5.0
MAX_FAILURES_LOGGED = 20


class RunListener:
    """Receives the events of one stage inside a flow or task run; pass it as ``on_event``.

    Progress goes to one artifact that is updated at most every 5 s, and to the
    log once a minute: a stage may emit thousands of events a second.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._log: Logger | LoggerAdapter[Any] = get_run_logger()
        self._artifact_id: Any = None
        self._last_update = 0.0
        self._pulse = Pulse(lambda stage, line: self._log.info("%s: %s", stage, line))
        self._num_failures = 0

    def __enter__(self) -> RunListener:
        self._pulse.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pulse.__exit__()
        if self._num_failures > MAX_FAILURES_LOGGED:
            self._log.warning("%d more videos with a status", self._num_failures - MAX_FAILURES_LOGGED)

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        if isinstance(event, events.StageStarted):
            self._pulse.start(event)
            detail = without_stage(event.stage, event.detail) or f"{event.total} {event.unit}"
            self._log.info("%s: %s", event.stage, detail)
            if event.total > 0:
                self._artifact_id = create_progress_artifact(progress=0.0, description=self._title)
        elif isinstance(event, events.Progress):
            self._progress(event)
        elif isinstance(event, events.ShardFinished):
            statuses = ", ".join(f"{n} {status}" for status, n in event.statuses.items())
            self._log.info("shard %d of %s committed: %s (%.1f s)", event.shard, event.target, statuses, event.seconds)
        elif isinstance(event, events.VideoFailed):
            self._num_failures += 1
            if self._num_failures <= MAX_FAILURES_LOGGED:
                self._log.warning(
                    "row %d %s: %s",
                    event.row,
                    on_one_line(event.video_id),
                    on_one_line(event.reason),
                )
        elif isinstance(event, events.Note):
            self._log.log(30 if event.level == "warning" else 20, "%s", printable(event.text))
        elif isinstance(event, events.StageFinished):
            self._pulse.finish()
            self._log.info("%s: %s (%.1f s)", event.stage, without_stage(event.stage, event.summary), event.seconds)
            self._set_progress(100.0)

    def _progress(self, event: events.Progress) -> None:
        now = time.monotonic()
        self._pulse.progress(event)
        if now - self._last_update >= UPDATE_EVERY_S and event.total:
            self._last_update = now
            self._set_progress(100.0 * event.done / event.total)

    def _set_progress(self, percent: float) -> None:
        if self._artifact_id is not None:
            update_progress_artifact(artifact_id=self._artifact_id, progress=min(100.0, percent))
