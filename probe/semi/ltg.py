"""LTG (Xiao et al., CVPR 2022), on frozen streams: a learner a stream, whose averaged guesses label what is sure."""

from __future__ import annotations

import numpy as np

from pipeline.errors import InvalidInputError
from probe.semi.softmax import fit_softmax, probabilities
from probe.semi.task import Task, method


@method("ltg")
def ltg(task: Task) -> np.ndarray:
    """Fit one learner a part, average, keep what is sure, fit all again; the average is the answer.

    Raises
    ------
    InvalidInputError
        If the readout has one part.
    """
    if len(task.parts) < 2:
        raise InvalidInputError(
            "expected a readout with two parts or more (two streams) for ltg, found one; define it under `readouts`"
        )
    targets, unlabelled = task.targets(), task.unlabelled
    rows, known = task.labelled, targets[task.labelled]
    fitted = [fit_softmax(train[rows], known, task.spec.l2) for train, _ in task.parts]
    for _ in range(task.spec.rounds):
        if not len(unlabelled):
            break
        guess = average([train[unlabelled] for train, _ in task.parts], fitted)
        sure = guess.max(1) > task.spec.confidence
        rows = np.concatenate([task.labelled, unlabelled[sure]])
        known = np.concatenate([targets[task.labelled], np.eye(guess.shape[1])[guess[sure].argmax(1)]])
        fitted = [fit_softmax(train[rows], known, task.spec.l2) for train, _ in task.parts]
    return average([test for _, test in task.parts], fitted)


def average(vectors: list[np.ndarray], fitted: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the mean of all learners' probabilities."""
    found: np.ndarray = np.mean([probabilities(x, one) for x, one in zip(vectors, fitted, strict=True)], axis=0)
    return found
