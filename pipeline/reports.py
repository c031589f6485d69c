"""What a stage returns and leaves as JSON: counts, time, skipped videos, provenance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class SkippedVideo(BaseModel):
    """A video that did not end as `ok`, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: int
    video_id: str
    status: str
    error: str = ""


class StageReport(BaseModel):
    """The frozen outcome of one stage.

    Every stage returns one. `did` holds the counts that `scale run --json`
    prints under the stage's name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    recipe: str = Field(description="Name of the recipe")
    did: dict[str, int] = Field(default_factory=dict, description="Counts: shards_done, shards_skipped, videos_new ...")
    seconds: float = 0.0
    num_bytes: int = Field(default=0, description="Bytes written")
    skipped: tuple[SkippedVideo, ...] = ()
    fingerprint: str = ""
    snapshot: str = ""
    details: dict[str, Any] = Field(default_factory=dict, description="JSON-like figures: rates, paths, numbers")

    @property
    def is_partial(self) -> bool:
        """Whether something was left undone that should have been done."""
        return bool(self.undone)

    @property
    def undone(self) -> str:
        """What was left undone, for people; empty where nothing was.

        A video that cannot be read is a row with a status, and done. Undone is a shard that failed, a row whose worker
        died, a known file that changed after it gave features, and the whole where no video of the dataset can be used.
        """
        if failed := self.did.get("shards_failed", 0):
            return f"{failed} shards failed; run again"
        if lost := self.did.get("videos_interrupted", 0):
            return f"{lost} videos were lost with their workers; run again"
        if changed := self.did.get("videos_changed", 0):
            return (
                f"{changed} known videos have other bytes than their features were made from, and were left as they "
                "were; `scale catalog --replace` takes the new files"
            )
        if self.details.get("num_usable") == 0:
            reasons = Counter(video.error for video in self.skipped).most_common(1)
            return "not one video can be used" + (f": {reasons[0][0]}" if reasons else "; see `scale status`")
        return ""


def doubts_of(*reports: StageReport) -> tuple[str, ...]:
    """Return why results of stages should not be believed or used: chance, collapse, less than without training."""
    return tuple(dict.fromkeys(text for report in reports for text in _doubts_of(report)))


def _doubts_of(report: StageReport) -> list[str]:
    details = report.details
    if report.stage == "train":  # of one model the figures stand there themselves
        models = details.get("models") or ({details["model"]: details} if "model" in details else {})
        return [f"model {name}: {text}" for name, one in models.items() for text in one.get("doubts", ())]
    found = details.get("doubts", ())
    return [f"{name}: {text}" for name, text in found.items()] if isinstance(found, dict) else list(found)


def merge_reports(reports: Sequence[StageReport]) -> StageReport:
    """Return one report for parts of the same stage: counts, seconds and bytes added, the rest from the last.

    Parameters
    ----------
    reports : sequence of StageReport
        At least one; all of the same stage.
    """
    did: Counter[str] = Counter()
    for report in reports:
        did.update(report.did)
    return reports[-1].model_copy(
        update={
            "did": dict(did),
            "seconds": sum(report.seconds for report in reports),
            "num_bytes": sum(report.num_bytes for report in reports),
            "skipped": tuple(video for report in reports for video in report.skipped),
        }
    )
