"""Linear, MLP and attentive probes: a whole grid of them trained in one pass over cached features.

First every point of the grid (learning rate x weight decay x seed) is trained
with train rows held out by group, all folds and points in the same matrix
products; the best point and epoch of each seed are then trained again on all
train rows, and scored on test once at the chosen epoch and once at the last.
Shape legend: N train rows, V crops, D channels, P probes, F folds, C classes, Q test rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.compute.threads import at_most_threads
from pipeline.errors import NoDataError, ShapeMismatchError, TrainingError
from probe.trained.fitting import MIN_WIDTH_OF_A_FOLD, Curves, Fit, FitSpec, Point
from probe.trained.heads import HeadKind
from probe.trained.holdout import holdout_masks
from probe.trained.inputs import Input, prepare

MULTIPLICATIONS_PER_THREAD = 1 << 27
"""A step with less work than this a thread gains nothing from threads, and on a busy machine loses a lot."""


@dataclass(frozen=True)
class GridSpec:
    """What is trained."""

    kind: HeadKind = "linear"
    learning_rates: tuple[float, ...] = (3e-4, 3e-3, 3e-2)
    weight_decays: tuple[float, ...] = (0.0, 0.1, 1.0)
    seeds: tuple[int, ...] = (0,)
    epochs: int = 60
    batch_size: int = 512
    holdout_fraction: float = 0.2
    hidden_dim: int = 512

    def points(self) -> list[Point]:
        """Return (learning rate, weight decay, seed) of every point, seeds outermost."""
        return [
            (rate, decay, seed)
            for seed, rate, decay in itertools.product(self.seeds, self.learning_rates, self.weight_decays)
        ]


@dataclass(frozen=True)
class TrainedProbe:
    """The chosen point of one seed."""

    seed: int
    learning_rate: float
    weight_decay: float
    epoch: int
    """Chosen; counted from 1."""
    epochs: int
    chosen_on: str
    heldout_top1: float | None
    heldout_curve: tuple[tuple[int, float], ...]
    """(epoch, held-out accuracy) of the chosen point."""
    selected_scores_QC: np.ndarray
    """float32 logits of the test rows at the chosen epoch."""
    last_scores_QC: np.ndarray


def train_grid(
    spec: GridSpec,
    train: Input,
    targets_NC: np.ndarray,
    groups: Sequence[str],
    test: Input,
    *,
    is_multilabel: bool = False,
    device: str = "cpu",
    min_fold_width: int = MIN_WIDTH_OF_A_FOLD,
    on_epoch: Callable[[int, int], None] = lambda done, total: None,
) -> list[TrainedProbe]:
    """Choose on held-out train groups, train on all train rows, score test.

    Parameters
    ----------
    spec : GridSpec
    train, test : Input
        (N, D), or (N, V, D) with a mask and a valid crop in every row: then
        linear and MLP probes learn from one random crop of every video an epoch
        and average the logits of all, the attentive probe pools them itself.
    targets_NC : ndarray of shape (N, C), bool
    groups : sequence of str, length N
    is_multilabel : bool
        Independent sigmoids instead of one softmax.
    device : str
    min_fold_width : int
        Outputs of all points together from which on every fold is a product of its own; the numbers are the same.
    on_epoch : callable
        Called with (epochs done, epochs in all) over both runs.

    Returns
    -------
    list of TrainedProbe
        One a seed.

    Raises
    ------
    NoDataError
        If there is no train row.
    TrainingError
        If a loss became non-finite for every point of a seed.
    """
    if len(train) == 0:
        raise NoDataError("expected train rows to learn a probe from, found none")
    if len(targets_NC) != len(train) or len(groups) != len(train):
        raise ShapeMismatchError(
            f"expected targets and groups of {len(train)} rows, found {len(targets_NC)} and {len(groups)}"
        )
    points = spec.points()
    masks, chosen_on = holdout_masks(
        groups, targets_NC, spec.holdout_fraction, min(spec.seeds), all_folds=spec.kind == "linear"
    )
    train, test = prepare(train, test)
    job = FitSpec(spec.kind, spec.epochs, spec.batch_size, spec.hidden_dim, min(spec.seeds))
    targets = torch.from_numpy(np.ascontiguousarray(targets_NC))
    fit = Fit(job, train, targets, is_multilabel, torch.device(device), min_fold_width=min_fold_width)
    total = spec.epochs * (2 if len(masks) else 1)
    work = fit.step_work(len(points) * max(1, len(masks)))
    with at_most_threads(work // MULTIPLICATIONS_PER_THREAD):
        return _run(fit, spec, points, masks, chosen_on, test, total, on_epoch)


def _run(
    fit: Fit,
    spec: GridSpec,
    points: list[Point],
    masks: np.ndarray,
    chosen_on: str,
    test: Input,
    total: int,
    on_epoch: Callable[[int, int], None],
) -> list[TrainedProbe]:
    if len(masks):
        curves = fit.heldout_curves(points, masks, lambda done: on_epoch(done, total))
        chosen = [_choose(spec, points, curves, seed) for seed in spec.seeds]
    else:
        chosen = [_Choice(_middle(spec, points, seed), spec.epochs, None, ()) for seed in spec.seeds]
    shift = total - spec.epochs
    scores = fit.refit([points[c.point] for c in chosen], [c.epoch for c in chosen], test,
                       lambda done: on_epoch(done + shift, total))  # fmt: skip
    return [
        TrainedProbe(
            seed=points[choice.point][2],
            learning_rate=points[choice.point][0],
            weight_decay=points[choice.point][1],
            epoch=choice.epoch,
            epochs=spec.epochs,
            chosen_on=chosen_on,
            heldout_top1=choice.top1,
            heldout_curve=choice.curve,
            selected_scores_QC=selected,
            last_scores_QC=last,
        )
        for choice, (selected, last) in zip(chosen, scores, strict=True)
    ]


@dataclass(frozen=True)
class _Choice:
    point: int
    epoch: int
    top1: float | None
    curve: tuple[tuple[int, float], ...]


def _choose(spec: GridSpec, points: list[Point], curves: Curves, seed: int) -> _Choice:
    """Best held-out accuracy; of equal ones the lower held-out loss."""
    mine = [i for i, point in enumerate(points) if point[2] == seed]
    loss = np.where(np.isfinite(curves.loss_EP[:, mine]), curves.loss_EP[:, mine], np.inf)
    if not np.isfinite(loss).any():
        raise TrainingError(
            f"expected a finite loss of the {spec.kind} probe, found none at any of the learning rates "
            f"{list(spec.learning_rates)}; add smaller ones"
        )
    top1 = np.where(np.isfinite(loss), curves.top1_EP[:, mine], -1)
    flat = np.lexsort((loss.ravel(), -top1.ravel()))[0]
    at, column = np.unravel_index(flat, top1.shape)
    curve = tuple((e, float(v)) for e, v in zip(curves.epochs, curves.top1_EP[:, mine[column]], strict=True))
    return _Choice(mine[int(column)], curves.epochs[int(at)], float(top1[at, column]), curve)


def _middle(spec: GridSpec, points: list[Point], seed: int) -> int:
    """Return the point used when nothing can be held out: middle learning rate and weight decay."""
    rates, decays = sorted(spec.learning_rates), sorted(spec.weight_decays)
    return points.index((rates[len(rates) // 2], decays[len(decays) // 2], seed))
