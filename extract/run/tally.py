"""What a run of extraction did, counted while it runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pipeline.reports import SkippedVideo
from pipeline.status import VideoStatus


@dataclass
class Tally:
    """What a run did."""

    shards_done: int = 0
    shards_by_others: int = 0
    crops: int = 0
    num_bytes: int = 0
    statuses: dict[int, str] = field(default_factory=dict)
    """Worst status of every video that is not ok."""
    num_videos: int = 0
    skipped: list[SkippedVideo] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Return the report's `did`."""
        interrupted = sum(status == VideoStatus.INTERRUPTED for status in self.statuses.values())
        return {
            "shards_done": self.shards_done,
            "shards_skipped": self.shards_by_others,
            "videos_ok": self.num_videos - len(self.statuses),
            "videos_failed": len(self.statuses),
            "crops": self.crops,
        } | ({"videos_interrupted": interrupted} if interrupted else {})

    def count_statuses(self) -> dict[str, int]:
        """Return videos per status, for those that are not ok."""
        return dict(Counter(self.statuses.values()))
