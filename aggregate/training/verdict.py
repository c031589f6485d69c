"""Whether a training learned anything: said once it is over, while its numbers can still be taken for results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aggregate.training.metrics import Record

SHARE_OF_CHANCE = 0.98
"""A mean loss above this share of what guessing gives is chance."""
LAST_SHARE = 0.1


def doubts_about_training(history: Sequence[Record], chance: float | None) -> tuple[str, ...]:
    """Say where a training ended at the loss of guessing.

    Parameters
    ----------
    history : sequence of Record
    chance : float or None
        The loss where nothing is told apart; None: the objective has no such level.
    """
    losses = [float(record["loss"] or 0.0) for record in history]
    last = losses[-max(1, int(len(losses) * LAST_SHARE)) :]
    if chance is None or not last or float(np.mean(last)) < SHARE_OF_CHANCE * chance:
        return ()
    return (
        f"training ended at chance: its loss is {np.mean(last):.4g}, guessing gives {chance:.4g}; the model has "
        "learned nothing. Train longer or with a higher learning_rate, and leave normalise at train",
    )
