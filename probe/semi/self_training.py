"""Self-training: the surest guesses become labels, the same number a class, more of them round by round."""

from __future__ import annotations

import numpy as np

from probe.semi.softmax import fit_softmax, probabilities
from probe.semi.task import Task, method


@method("self_training")
def self_training(task: Task) -> np.ndarray:
    """Fit, guess, keep what is sure, fit again; labels that were given never change."""
    targets, unlabelled = task.targets(), task.unlabelled
    fitted = fit_softmax(task.train[task.labelled], targets[task.labelled], task.spec.l2)
    for number in range(1, task.spec.rounds + 1):
        if not len(unlabelled):
            break
        guess = probabilities(task.train[unlabelled], fitted)
        chosen = surest(guess, round(len(unlabelled) * number / task.spec.rounds))
        rows = np.concatenate([task.labelled, unlabelled[chosen]])
        known = np.concatenate([targets[task.labelled], np.eye(guess.shape[1])[guess[chosen].argmax(1)]])
        fitted = fit_softmax(task.train[rows], known, task.spec.l2)
    return probabilities(task.test, fitted)


def surest(guess_NC: np.ndarray, number: int) -> np.ndarray:
    """Return about `number` rows, those surest of each guessed class, no class more than its share."""
    best, classes = guess_NC.max(1), guess_NC.argmax(1)
    per_class = max(1, round(number / guess_NC.shape[1]))
    found = []
    for c in range(guess_NC.shape[1]):
        rows = np.flatnonzero(classes == c)
        found.append(rows[np.argsort(-best[rows], kind="stable")[:per_class]])
    return np.sort(np.concatenate(found))
