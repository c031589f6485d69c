"""What can become of a video: the statuses of a ledger row."""

from __future__ import annotations

from enum import StrEnum


class VideoStatus(StrEnum):
    """Outcome of one video in one feature set; stored as text in the ledger."""

    OK = "ok"
    """Every planned crop is there."""
    PARTIAL = "partial"
    """Decoding stopped early; the crops that fit are valid, the rest are masked."""
    DAMAGED = "damaged"
    """The decoder flagged frames as damaged, or lost some and went on; the crop set's `damaged` rule decided whether
    crops that show such frames are valid."""
    TOO_SHORT = "too_short"
    """Shorter than one crop. The policy's `short` rule decided whether its crops are valid
    (`loop`, `repeat_last`: valid, and the row says so) or masked (`reject`)."""
    UNREADABLE = "unreadable"
    """No frame could be decoded; the row's error says why."""
    MISSING = "missing"
    """The file was not there."""
    INTERRUPTED = "interrupted"
    """Its decoding process was killed from outside (by the system, short of memory, say): nothing is known of the file.
    The next run tries it again, unasked."""
    REMOVED = "removed"
    """The video was withdrawn; its row stays taken."""
    NON_FINITE = "non_finite"
    """The backbone returned NaN or infinity (or overflowed float16); those crops are masked."""
