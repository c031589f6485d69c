"""Linear, MLP and attentive probes: a whole grid of them trained in one pass over cached features.

First every point of the grid (learning rate x weight decay x seed) is trained
with train rows held out by group, all folds and points in the same matrix
products; the best point and epoch of each seed are then trained again on all
train rows, and scored on test once at the chosen epoch and once at the last.
Shape legend: N train rows, V crops, D channels, P probes, F folds, C classes, Q test rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import NoDataError, ShapeMismatchError, TrainingError
from probe.heads import AttentiveHead, GridAdamW, Head, HeadKind, LinearHead, MlpHead
from probe.holdout import holdout_masks
from probe.inputs import Input, prepare

WARMUP_SHARE = 0.05
MIN_STEPS_PER_EPOCH = 8
"""Small sets get smaller batches, so that 60 epochs are still some hundred steps."""
MIN_BATCH = 32
NUM_EVALUATIONS = 20
"""Held-out accuracy is taken this many times over the epochs."""
ROWS_PER_SCORING = 1024
MULTIPLICATIONS_PER_THREAD = 1 << 25
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

    def points(self) -> list[tuple[float, float, int]]:
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
    job = _Job(spec, train, torch.from_numpy(np.ascontiguousarray(targets_NC)), is_multilabel, torch.device(device))
    total = spec.epochs * (2 if len(masks) else 1)
    with few_threads(job.step_work(len(points) * max(1, len(masks)))):
        return _run(job, spec, points, masks, chosen_on, test, total, on_epoch)


def _run(
    job: _Job,
    spec: GridSpec,
    points: list[tuple[float, float, int]],
    masks: np.ndarray,
    chosen_on: str,
    test: Input,
    total: int,
    on_epoch: Callable[[int, int], None],
) -> list[TrainedProbe]:
    if len(masks):
        curves = job.heldout_curves(points, masks, lambda done: on_epoch(done, total))
        chosen = [_choose(spec, points, curves, seed) for seed in spec.seeds]
    else:
        chosen = [_Choice(_middle(spec, points, seed), spec.epochs, None, ()) for seed in spec.seeds]
    shift = total - spec.epochs
    scores = job.refit([points[c.point] for c in chosen], [c.epoch for c in chosen], test,
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


@contextmanager
def few_threads(multiplications: int) -> Iterator[None]:
    """Give torch as many threads as the work of one step can use, and its old number back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, multiplications // MULTIPLICATIONS_PER_THREAD)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class _Choice:
    point: int
    epoch: int
    top1: float | None
    curve: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class _Curves:
    epochs: list[int]
    top1_EP: np.ndarray
    loss_EP: np.ndarray


def _choose(spec: GridSpec, points: list[tuple[float, float, int]], curves: _Curves, seed: int) -> _Choice:
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


def _middle(spec: GridSpec, points: list[tuple[float, float, int]], seed: int) -> int:
    """Return the point used when nothing can be held out: middle learning rate and weight decay."""
    rates, decays = sorted(spec.learning_rates), sorted(spec.weight_decays)
    return points.index((rates[len(rates) // 2], decays[len(decays) // 2], seed))


class _Job:
    """Train rows on a device, and the two runs over them."""

    def __init__(
        self, spec: GridSpec, train: Input, targets_NC: Tensor, is_multilabel: bool, device: torch.device
    ) -> None:
        self.spec, self.device, self.is_multilabel = spec, device, is_multilabel
        self.train = train.to(device)
        self.targets_NC = targets_NC.to(device)
        self.class_N = self.targets_NC.to(torch.uint8).argmax(dim=1)
        self.num_classes = targets_NC.shape[1]
        self.by_crop = train.has_crops and spec.kind != "attentive"

    def step_work(self, num_probes: int) -> int:
        """Return the multiplications of one forward pass of a batch, roughly."""
        width = self.spec.hidden_dim if self.spec.kind == "mlp" else self.num_classes
        per_row = self.train.dim * width * num_probes
        if self.spec.kind == "attentive":
            per_row += self.train.features.shape[1] * self.train.dim * num_probes
        return self._batch_size() * per_row

    def _batch_size(self) -> int:
        return min(self.spec.batch_size, max(MIN_BATCH, math.ceil(len(self.train) / MIN_STEPS_PER_EPOCH)))

    def heldout_curves(
        self, points: list[tuple[float, float, int]], masks_FN: np.ndarray, on_epoch: Callable[[int], None]
    ) -> _Curves:
        """Train every point on every fold's other rows; return held-out accuracy and loss over the epochs."""
        num_folds = len(masks_FN)
        heldout = torch.from_numpy(masks_FN).to(self.device)
        head, optimizer = self._start([point for point in points for _ in range(num_folds)])
        every = max(1, self.spec.epochs // NUM_EVALUATIONS)
        rows = torch.nonzero(heldout.any(dim=0))[:, 0]
        fold_of_row = heldout[:, rows].to(torch.uint8).argmax(dim=0)
        epochs, top1, losses = [], [], []
        for epoch in self._epochs(head, optimizer, ~heldout, len(points)):
            on_epoch(epoch)
            if epoch % every and epoch != self.spec.epochs:
                continue
            right = torch.zeros(len(points), device=self.device)
            loss = torch.zeros(len(points), device=self.device)
            for part in torch.arange(len(rows), device=self.device).split(ROWS_PER_SCORING):
                with torch.no_grad():
                    logits = head(*self.train.take(rows[part]))
                logits = logits.view(len(part), len(points), num_folds, self.num_classes)
                logits = logits[torch.arange(len(part), device=self.device), :, fold_of_row[part]]
                best = logits.argmax(dim=2, keepdim=True)
                truth = self.targets_NC[rows[part]][:, None].expand(-1, len(points), -1)
                right += truth.gather(2, best)[..., 0].float().sum(dim=0)
                loss += self._losses(logits, rows[part]).sum(dim=0)
            epochs.append(epoch)
            top1.append((right / len(rows)).cpu().numpy())
            losses.append((loss / len(rows)).cpu().numpy())
        return _Curves(epochs, np.stack(top1), np.stack(losses))

    def refit(
        self, points: list[tuple[float, float, int]], chosen: list[int], test: Input, on_epoch: Callable[[int], None]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Train the chosen points on all rows; return test scores at the chosen epoch and at the last."""
        head, optimizer = self._start(points)
        test = test.to(self.device)
        everything = torch.ones(1, len(self.train), dtype=torch.bool, device=self.device)
        scores: dict[int, np.ndarray] = {}
        wanted = {*chosen, self.spec.epochs}
        for epoch in self._epochs(head, optimizer, everything, len(points)):
            on_epoch(epoch)
            if epoch in wanted:
                scores[epoch] = self._score(head, test)
        return [(scores[epoch][:, i], scores[self.spec.epochs][:, i]) for i, epoch in enumerate(chosen)]

    def _start(self, points: list[tuple[float, float, int]]) -> tuple[Head, GridAdamW]:
        seeds = [seed for _, _, seed in points]
        dim, classes = self.train.dim, self.num_classes
        head: Head
        if self.spec.kind == "linear":
            head = LinearHead(dim, classes, seeds, self.device)
        elif self.spec.kind == "mlp":
            head = MlpHead(dim, self.spec.hidden_dim, classes, seeds, self.device)
        else:
            head = AttentiveHead(dim, classes, seeds, self.device)
        return head, GridAdamW(head, [rate for rate, _, _ in points], [decay for _, decay, _ in points])

    def _epochs(self, head: Head, optimizer: GridAdamW, learns_FN: Tensor, num_points: int) -> Iterator[int]:
        """Yield after every epoch (counted from 1)."""
        generator = torch.Generator().manual_seed(min(self.spec.seeds))
        batch_size = self._batch_size()
        num_steps = self.spec.epochs * math.ceil(len(self.train) / batch_size)
        warmup = max(1, round(WARMUP_SHARE * num_steps))
        step = 0
        for epoch in range(1, self.spec.epochs + 1):
            rows, crops = self.train.shuffled(generator, by_crop=self.by_crop)
            for part in torch.arange(len(self.train)).split(batch_size):
                at = rows[part].to(self.device)
                features, valid = self.train.take(at, None if crops is None else crops[part].to(self.device))
                logits = head(features, valid)
                weights_BF = learns_FN[:, at].T.to(logits.dtype)
                weights_BF = weights_BF / weights_BF.sum(dim=0).clamp_min(1)
                losses = self._losses(logits, at).view(len(at), num_points, -1)
                (losses * weights_BF[:, None]).sum().backward()
                step += 1
                progress = max(0.0, (step - warmup) / max(1, num_steps - warmup))
                optimizer.step(min(1.0, step / warmup) * 0.5 * (1 + math.cos(math.pi * progress)))
            yield epoch

    def _losses(self, logits_BPC: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of each row and probe (B, P)."""
        if self.is_multilabel:
            truth = self.targets_NC[rows][:, None].expand_as(logits_BPC).to(logits_BPC.dtype)
            return torch.nn.functional.binary_cross_entropy_with_logits(logits_BPC, truth, reduction="none").sum(dim=2)
        wanted = self.class_N[rows][:, None, None].expand(-1, logits_BPC.shape[1], 1)
        return torch.logsumexp(logits_BPC, dim=2) - logits_BPC.gather(2, wanted)[..., 0]

    @torch.no_grad()
    def _score(self, head: Head, test: Input) -> np.ndarray:
        if not len(test):
            return np.zeros((0, head.parameters[-1].shape[0], self.num_classes), np.float32)
        pieces = torch.arange(len(test), device=self.device).split(ROWS_PER_SCORING)
        parts = [head(*test.take(at)).cpu() for at in pieces]
        return torch.cat(parts).numpy()
