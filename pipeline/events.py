"""What stages say while they work: frozen values, never prints.

The command line turns them into progress bars, flows into logs and
artifacts, tests into lists (``on_event=events.append``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""

    stage: str
    """catalog, extract, train, embed, probe, index or verify."""


@dataclass(frozen=True, slots=True)
class StageStarted(Event):
    """A stage knows how much it has to do."""

    total: int
    """Units of work."""
    unit: str
    """What is counted: videos, steps, shards."""
    detail: str = ""
    """One line for people: what, with what, where."""


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """Work was done since the last event of this stage."""

    done: int
    """Units finished so far (cumulative)."""
    total: int
    """Units in all."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Figures to show beside the bar: loss, crops_per_s."""


@dataclass(frozen=True, slots=True)
class ShardFinished(Event):
    """A shard was committed."""

    shard: int
    target: str
    """The feature or embedding set it belongs to."""
    num_rows: int
    statuses: Mapping[str, int]
    """Rows per status."""
    seconds: float


@dataclass(frozen=True, slots=True)
class VideoFailed(Event):
    """A video ended with a status other than ok."""

    row: int
    video_id: str
    status: str
    error: str

    @property
    def reason(self) -> str:
        """Status and error in words; an error that begins with its status says it once."""
        return self.error if self.error.startswith(f"{self.status}:") else f"{self.status}: {self.error}"


@dataclass(frozen=True, slots=True)
class Note(Event):
    """One line that a person should see: a fallback, a warning."""

    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True, slots=True)
class StageFinished(Event):
    """The stage is done; its report follows as the return value."""

    summary: str
    seconds: float


OnEvent = Callable[[Event], None]
"""Anything that takes an event."""


def ignore(event: Event) -> None:
    """Listen to nothing; the default of every ``on_event``."""
