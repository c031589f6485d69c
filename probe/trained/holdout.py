"""Which train rows choose hyper-parameters, and which few labels a low-shot probe sees. Test rows never come here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.errors import InvalidInputError

MAX_ROWS_FOR_ALL_FOLDS = 5000
"""Up to here every fold is held out once, so that few rows still choose with little noise; beyond it one fold is."""


def group_folds(groups: Sequence[str], targets_NC: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """Deal groups into folds, each class spread as evenly as whole groups allow.

    Parameters
    ----------
    groups : sequence of str, length N
        Rows of one group share a fold.
    targets_NC : ndarray of shape (N, C), bool
    num_folds : int
    seed : int
        Order in which groups of the same size are dealt.

    Returns
    -------
    ndarray of shape (N,), int64
        The fold of each row, 0 ... min(num_folds, number of groups) - 1.
    """
    names, group_of_row = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    num_folds = min(num_folds, len(names))
    per_group_GC = np.zeros((len(names), targets_NC.shape[1]))
    np.add.at(per_group_GC, group_of_row, targets_NC)
    sizes = np.bincount(group_of_row, minlength=len(names))
    shuffled = np.random.default_rng(seed).permutation(len(names))
    fold_of_group = np.zeros(len(names), np.int64)
    filled_FC = np.zeros((num_folds, targets_NC.shape[1]))
    filled_F = np.zeros(num_folds)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        # First the fold that lacks this group's classes most, then the emptiest.
        crowding = filled_FC @ per_group_GC[group]
        fold = np.lexsort((filled_F, crowding))[0]
        fold_of_group[group] = fold
        filled_FC[fold] += per_group_GC[group]
        filled_F[fold] += sizes[group]
    return fold_of_group[group_of_row]


def holdout_masks(
    groups: Sequence[str], targets_NC: np.ndarray, holdout_fraction: float, seed: int, *, all_folds: bool = True
) -> tuple[np.ndarray, str]:
    """Return the held-out rows of each selection run, and how to say it.

    Parameters
    ----------
    groups : sequence of str, length N
    targets_NC : ndarray of shape (N, C), bool
    holdout_fraction : float
    seed : int
    all_folds : bool, default True
        Hold every fold out once, up to 5,000 rows. False: one fold, whatever the size.

    Returns
    -------
    masks : ndarray of shape (F, N), bool
        F = 0 where nothing can be held out: fewer than two groups, or fewer
        than two rows of every class.
    text : str
        For `TrainingFound.chosen_on`.
    """
    num_folds = max(2, round(1 / holdout_fraction))
    num_groups = len(set(groups))
    if num_groups < 2 or targets_NC.sum(axis=0).max(initial=0) < 2:
        text = f"nothing was chosen: {len(groups)} train rows in {num_groups} groups leave none to choose on"
        return np.zeros((0, len(groups)), bool), text
    folds = group_folds(groups, targets_NC, num_folds, seed)
    num_folds = int(folds.max()) + 1
    if all_folds and len(groups) <= MAX_ROWS_FOR_ALL_FOLDS:
        masks = np.stack([folds == fold for fold in range(num_folds)])
        return masks, f"{num_folds} folds of the train rows, held out by group"
    masks = (folds == 0)[None]
    return masks, f"{int(masks.sum())} of {len(groups)} train rows, held out by group"


def balanced_subset(
    targets_NC: np.ndarray, *, fraction: float | None = None, per_class: int | None = None, seed: int = 0
) -> np.ndarray:
    """Draw the train rows of a low-shot probe, the same number from every class.

    Parameters
    ----------
    targets_NC : ndarray of shape (N, C), bool
        A multi-label row is drawn for its rarest class.
    fraction : float, optional
        Share of the rows: max(1, round(fraction * N / classes present)) rows a class.
    per_class : int, optional
        Rows a class. Exactly one of the two is given.
    seed : int
        A larger draw of the same seed contains the smaller one.

    Returns
    -------
    ndarray, int64
        Rows, ascending. A class with fewer rows gives all it has.

    Raises
    ------
    InvalidInputError
        Unless 0 < fraction <= 1, or per_class >= 1.
    """
    if (fraction is None) == (per_class is None):
        raise InvalidInputError("expected either a fraction or a number per class")
    counts = targets_NC.sum(axis=0)
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise InvalidInputError(f"expected a fraction of the labels in (0, 1], found {fraction}")
        per_class = max(1, round(fraction * len(targets_NC) / max(1, int((counts > 0).sum()))))
    assert per_class is not None
    if per_class < 1:
        raise InvalidInputError(f"expected at least 1 train row per class, found {per_class}")
    # Rarest class of each row; for single-label rows that is its class.
    class_of_row = np.where(targets_NC, counts, np.iinfo(np.int64).max).argmin(axis=1)
    order = np.random.default_rng(seed).permutation(len(targets_NC))
    order = order[targets_NC[order].any(axis=1)]
    drawn = [order[class_of_row[order] == c][:per_class] for c in range(targets_NC.shape[1])]
    return np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, np.int64)
