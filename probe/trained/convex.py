"""Linear probes of small sets, solved: L2-penalised logistic regression at every penalty of a path at once.

A few hundred rows of a thousand channels need no steps over batches: the loss is convex, and one solution a penalty
exists. Rows are written in the directions in which the train rows vary, which leaves at most as many unknowns a class
as there are rows, and makes the curvature nearly diagonal. Divided by it, L-BFGS is done after a dozen or two of
products over all rows; all penalties share them. What is found does not depend on a seed.
Shape legend: N rows to learn from, D channels, R directions and a constant, L penalties, C classes, Q test rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.compute.threads import at_most_threads
from pipeline.errors import NoDataError, TrainingError
from probe.trained.holdout import holdout_masks
from probe.trained.inputs import Input, prepare
from probe.trained.quasi_newton import minimise
from probe.trained.training import MULTIPLICATIONS_PER_THREAD

MAX_ROWS = 5000
"""Crops count one by one where they are learned from one by one."""
TOLERANCE_BY_PENALTY, TOLERANCES = 0.03, (3e-6, 1e-4)
"""Of a gradient; the smallest is what sums in float32 still tell."""
MAX_DIRECTIONS = 2048
"""Up to here the directions are looked for: an eigenvalue problem of that size takes seconds."""
_SMALLEST_DIRECTION = 1e-7
"""Of the largest one's variance; what is below is rounding."""
_LARGE = 60.0
"""Logits whose exponential can be summed in float32."""


@dataclass(frozen=True)
class PathSpec:
    """What is solved."""

    penalties: tuple[float, ...]
    """Times half the squared weights, beside the mean loss of a row."""
    holdout_fraction: float = 0.2
    seed: int = 0
    """Of the folds."""


@dataclass(frozen=True)
class SolvedProbe:
    """The classifier at the chosen penalty."""

    penalty: float
    chosen_on: str
    heldout_top1: float | None
    heldout_curve: tuple[tuple[float, float], ...]
    """(penalty, held-out accuracy), ascending."""
    scores_QC: np.ndarray
    """float32 logits of the test rows."""


def num_rows(train: Input) -> int:
    """Return how many rows the solver would see."""
    return len(train) if train.valid_NV is None else int(train.valid_NV.sum())


def solve_path(
    spec: PathSpec,
    train: Input,
    targets_NC: np.ndarray,
    groups: Sequence[str],
    test: Input,
    *,
    is_multilabel: bool = False,
    device: str = "cpu",
    on_fold: Callable[[int, int], None] = lambda done, total: None,
) -> SolvedProbe:
    """Choose the penalty on held-out train groups, solve on all train rows, score test.

    Parameters
    ----------
    spec : PathSpec
    train, test : Input
        (N, D), or (N, V, D) with a mask: then every crop is a row to learn from, the crops of a video weigh as much
        as one row, and the logits of a test video's crops are averaged.
    targets_NC : ndarray of shape (N, C), bool
    groups : sequence of str, length N
    is_multilabel : bool
        Independent sigmoids instead of one softmax.
    device : str
    on_fold : callable
        Called with (folds done, folds and the last run).

    Raises
    ------
    NoDataError
        If there is no train row.
    TrainingError
        If the features are so large that no loss is finite.
    """
    if len(train) == 0:
        raise NoDataError("expected train rows to learn a probe from, found none")
    masks, chosen_on = holdout_masks(groups, targets_NC, spec.holdout_fraction, spec.seed)
    train, test = prepare(train, test)
    ascending = sorted(spec.penalties)
    penalties = torch.tensor(ascending, device=device)
    work = num_rows(train) * min(train.dim, MAX_DIRECTIONS) * len(penalties) * targets_NC.shape[1]
    with at_most_threads(work // MULTIPLICATIONS_PER_THREAD), torch.inference_mode():
        problem = _Problem(train.to(torch.device(device)), torch.from_numpy(targets_NC).to(device), is_multilabel)
        right, loss = np.zeros(len(penalties)), np.zeros(len(penalties))
        for number, mask in enumerate(masks):
            heldout = torch.from_numpy(mask).to(device)
            found = problem.heldout(problem.solve(penalties, ~heldout), heldout)
            right, loss = right + found[0], loss + found[1]
            on_fold(number + 1, len(masks) + 1)
        chosen, top1 = len(penalties) // 2, None
        curve: tuple[tuple[float, float], ...] = ()
        if len(masks):
            if not np.isfinite(loss).any():
                raise TrainingError(
                    f"expected a finite loss of the linear probe, found none at any of the penalties "
                    f"{list(spec.penalties)}; are the features sound? `scale verify` checks them"
                )
            top1_L = np.where(np.isfinite(loss), right / masks.sum(), -1)
            chosen = int(np.lexsort((loss, -top1_L))[0])
            top1 = float(top1_L[chosen])
            curve = tuple(zip(ascending, top1_L.tolist(), strict=True))
        scores = problem.scores(problem.solve(penalties[chosen : chosen + 1]), test.to(torch.device(device)))
        on_fold(len(masks) + 1, len(masks) + 1)
    return SolvedProbe(ascending[chosen], chosen_on, top1, curve, scores)


class _Problem:
    """Train rows in their own directions, and the regressions over some of them."""

    def __init__(self, train: Input, targets_NC: Tensor, is_multilabel: bool) -> None:
        self._is_multilabel = is_multilabel
        self._video_of_row, rows = _rows(train)
        self._targets = targets_NC[self._video_of_row]
        self._targets_of_video = targets_NC
        self._share = 1 / torch.bincount(self._video_of_row, minlength=len(train)).float()
        self._to_directions, variances = _directions(rows)
        self._rows = self._project(rows)
        rates = targets_NC.float().mean(dim=0)
        curvature = float((rates * (1 - rates)).mean().clamp_min(1e-3))
        self._curvatures = torch.cat([curvature * variances, variances.new_full((1,), curvature)])

    def solve(self, penalties: Tensor, learns: Tensor | None = None) -> Tensor:
        """Return the weights (L, R, C) at each penalty, from all videos or some."""
        rows, targets, weights = self._rows, self._targets.float(), self._share[self._video_of_row]
        if learns is not None:
            at = learns[self._video_of_row]
            rows, targets, weights = rows[at], targets[at], weights[at]
        weights = weights / weights.sum()
        num_unknowns, num_classes = rows.shape[1], targets.shape[1]
        found = []
        for some in penalties.split(_penalties_at_once(num_unknowns * num_classes)):
            penalty_LR = some[:, None].repeat(1, num_unknowns)
            penalty_LR[:, -1] = 0  # the constant is free
            scale_LR = (self._curvatures + penalty_LR).rsqrt()
            loss = _Loss(rows, targets, weights, penalty_LR, scale_LR, self._is_multilabel)
            start = torch.zeros(len(some), num_unknowns * num_classes, device=rows.device)
            # A gradient tells weights apart down to its size by the penalty: weak ones want smaller ones.
            tolerance = (TOLERANCE_BY_PENALTY * some).clamp(*TOLERANCES)
            found.append(loss.weights(minimise(loss, start, tolerance)))
        return torch.cat(found)

    def heldout(self, weights_LRC: Tensor, heldout: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return how many held-out videos each penalty gets right, and its summed loss on them."""
        at = heldout[self._video_of_row]
        logits = _logits(self._rows[at], weights_LRC)
        videos = self._video_of_row[at]
        mean = torch.zeros(len(heldout), *logits.shape[1:], device=logits.device)
        mean.index_add_(0, videos, logits * self._share[videos][:, None, None])
        logits, truth = mean[heldout], self._targets_of_video[heldout][:, None].expand(-1, len(weights_LRC), -1)
        right = truth.gather(2, logits.argmax(dim=2, keepdim=True))[..., 0].double().sum(dim=0)
        loss = _row_losses(logits, truth.float(), self._is_multilabel).double().sum(dim=0)
        return right.cpu().numpy(), loss.cpu().numpy()

    def scores(self, weights_1RC: Tensor, test: Input) -> np.ndarray:
        """Return the logits of test videos (Q, C), those of crops averaged."""
        if not len(test):
            return np.zeros((0, weights_1RC.shape[2]), np.float32)
        video, rows = _rows(test)
        logits = _logits(self._project(rows), weights_1RC)[:, 0]
        mean = torch.zeros(len(test), logits.shape[1], device=logits.device).index_add_(0, video, logits)
        return (mean / torch.bincount(video, minlength=len(test)).clamp_min(1)[:, None]).cpu().numpy()

    def _project(self, rows: Tensor) -> Tensor:
        inner = rows if self._to_directions is None else rows @ self._to_directions
        return torch.cat([inner, inner.new_ones(len(inner), 1)], dim=1)


@dataclass
class _Loss:
    """Mean loss and penalty of L regressions, as a function of weights that are divided by the curvature."""

    rows: Tensor
    targets: Tensor
    row_weights: Tensor
    penalty_LR: Tensor
    scale_LR: Tensor
    is_multilabel: bool

    def weights(self, unknowns_LX: Tensor) -> Tensor:
        """Return the weights (L, R, C)."""
        return unknowns_LX.view(*self.scale_LR.shape, -1) * self.scale_LR[..., None]

    def __call__(self, unknowns_LX: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses (L,), in float64, and gradients (L, R * C)."""
        weights = self.weights(unknowns_LX)
        losses, slopes = _losses_and_slopes(_logits(self.rows, weights), self.targets[:, None], self.is_multilabel)
        slopes.mul_(self.row_weights[:, None, None])
        pull = self.penalty_LR[..., None] * weights
        gradient = (self.rows.T @ slopes.flatten(1)).view(self.rows.shape[1], *slopes.shape[1:]).transpose(0, 1) + pull
        loss = self.row_weights.double() @ losses.double() + 0.5 * (pull * weights).double().sum(dim=(1, 2))
        return loss, (gradient * self.scale_LR[..., None]).flatten(1)

    def some(self, which: Tensor) -> _Loss:
        """Return some of the regressions."""
        return _Loss(self.rows, self.targets, self.row_weights, self.penalty_LR[which], self.scale_LR[which],
                     self.is_multilabel)  # fmt: skip


def _rows(data: Input) -> tuple[Tensor, Tensor]:
    """Return the video of every row, and the standardised rows; each valid crop is one."""
    everything = torch.arange(len(data), device=data.features.device)
    features, valid = data.take(everything)
    if valid is None:
        return everything, features
    video, crop = valid.nonzero(as_tuple=True)
    return video, features[video, crop]


def _directions(rows: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the directions in which rows vary (D, R - 1), and how much; None: the channels themselves."""
    if min(rows.shape) > MAX_DIRECTIONS:
        return None, rows.square().mean(dim=0)
    if len(rows) >= rows.shape[1]:
        values, vectors = torch.linalg.eigh(rows.T @ rows)
        kept = values > 10 * _SMALLEST_DIRECTION * values[-1].clamp_min(1e-30)  # in float32
        return vectors[:, kept], values[kept] / len(rows)
    exact = rows.double()
    values, vectors = torch.linalg.eigh(exact @ exact.T)
    kept = values > _SMALLEST_DIRECTION * values[-1].clamp_min(1e-30)
    values, vectors = values[kept], vectors[:, kept]
    return (exact.T @ (vectors * values.rsqrt())).float(), (values / len(rows)).float()


def _logits(rows: Tensor, weights_LRC: Tensor) -> Tensor:
    """Return (rows, L, C)."""
    num_penalties, num_unknowns, num_classes = weights_LRC.shape
    flat = weights_LRC.transpose(0, 1).reshape(num_unknowns, num_penalties * num_classes)
    return (rows @ flat).view(len(rows), num_penalties, num_classes)


def _losses_and_slopes(logits: Tensor, targets: Tensor, is_multilabel: bool) -> tuple[Tensor, Tensor]:
    """Return the loss of each row at each penalty, and its derivative by the logits, which are overwritten."""
    if is_multilabel:
        return _row_losses(logits, targets, is_multilabel), logits.sigmoid_().sub_(targets)
    logits.sub_((logits * targets).sum(dim=2, keepdim=True))  # of the true class 0: small losses keep their digits
    shift: Tensor | float = 0.0
    if logits.max() > _LARGE:  # over a dozen classes the largest, like torch.softmax, takes longer than the rest
        largest = logits.amax(dim=2, keepdim=True)
        logits.sub_(largest)
        shift = largest[..., 0]
    total = logits.exp_().sum(dim=2)
    return total.log() + shift, logits.div_(total[..., None]).sub_(targets)


def _row_losses(logits: Tensor, targets: Tensor, is_multilabel: bool) -> Tensor:
    """Return the loss of each row at each penalty (rows, L)."""
    if is_multilabel:
        return (torch.nn.functional.softplus(logits) - logits * targets).sum(dim=2)
    return torch.logsumexp(logits, dim=2) - (logits * targets).sum(dim=2)


def _penalties_at_once(num_unknowns: int) -> int:
    return max(1, (1 << 26) // (20 * num_unknowns))  # a quarter of a GiB for what L-BFGS remembers
