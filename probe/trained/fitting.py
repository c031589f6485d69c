"""A head fitted to train rows: steps over an epoch, held-out accuracy on the way, test scores at the wanted epochs.

Shape legend: N train rows, V crops, D channels, P points of the grid, F folds, C classes, Q test rows, B batch rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.compute.schedule import warm_up_cosine
from pipeline.compute.seeds import seeded
from probe.trained.heads import AttentiveHead, GridAdamW, Head, HeadKind, LinearHead, MlpHead, Slope
from probe.trained.inputs import Input

WARMUP_SHARE = 0.05
MIN_STEPS_PER_EPOCH = 8
"""Small sets get smaller batches, so that 60 epochs are still some hundred steps."""
MIN_BATCH = 32
NUM_EVALUATIONS = 20
"""Held-out accuracy is taken this many times over the epochs."""
ROWS_PER_SCORING = 1024
MIN_WIDTH_OF_A_FOLD = 256
"""From this many outputs each fold has products of its own, over the rows that it learns from; narrower ones are
done together, and the rows held out weigh nothing."""


Point = tuple[float, float, int]
"""Learning rate, weight decay, seed."""


@dataclass(frozen=True)
class Curves:
    """Held-out accuracy and loss over the epochs."""

    epochs: list[int]
    top1_EP: np.ndarray
    loss_EP: np.ndarray


@dataclass(frozen=True)
class FitSpec:
    """What is fitted, and how long."""

    kind: HeadKind
    epochs: int
    batch_size: int
    hidden_dim: int
    seed: int
    """Of the order of rows."""


class Fit:
    """Train rows on a device, and the two runs over them."""

    def __init__(
        self,
        spec: FitSpec,
        train: Input,
        targets_NC: Tensor,
        is_multilabel: bool,
        device: torch.device,
        *,
        min_fold_width: int = MIN_WIDTH_OF_A_FOLD,
    ) -> None:
        self.min_fold_width = min_fold_width
        self.spec, self.device, self.is_multilabel = spec, device, is_multilabel
        self.train = train.to(device)
        self.targets_NC = targets_NC.to(device)
        self.class_N = self.targets_NC.to(torch.uint8).argmax(dim=1)
        self.num_classes = targets_NC.shape[1]
        self.by_crop = train.has_crops and spec.kind != "attentive"
        self.batch_size = min(spec.batch_size, max(MIN_BATCH, math.ceil(len(train) / MIN_STEPS_PER_EPOCH)))

    def step_work(self, num_probes: int) -> int:
        """Return the multiplications of one forward pass of a batch, roughly."""
        width = self.spec.hidden_dim if self.spec.kind == "mlp" else self.num_classes
        per_row = self.train.dim * width * num_probes
        if self.spec.kind == "attentive":
            per_row += self.train.features.shape[1] * self.train.dim * num_probes
        return self.batch_size * per_row

    def heldout_curves(self, points: list[Point], masks_FN: np.ndarray, on_epoch: Callable[[int], None]) -> Curves:
        """Train every point on every fold's other rows; return held-out accuracy and loss over the epochs."""
        num_folds, num_points = len(masks_FN), len(points)
        heldout = torch.from_numpy(masks_FN).to(self.device)
        head, optimizer = self._start(points * num_folds)
        folds = [head.part(slice(f * num_points, (f + 1) * num_points)) for f in range(num_folds)]
        rows_of_fold = [torch.nonzero(mask)[:, 0] for mask in heldout]
        num_heldout = sum(map(len, rows_of_fold))
        is_wide = num_points * self.num_classes >= self.min_fold_width
        blocks = list(zip(folds, (~heldout).split(1), strict=True)) if is_wide else [(head, ~heldout)]
        every = max(1, self.spec.epochs // NUM_EVALUATIONS)
        epochs, top1, losses = [], [], []
        for epoch in self._epochs(blocks, optimizer):
            on_epoch(epoch)
            if epoch % every and epoch != self.spec.epochs:
                continue
            right = torch.zeros(num_points, device=self.device)
            loss = torch.zeros(num_points, device=self.device)
            for fold, rows in zip(folds, rows_of_fold, strict=True):
                for part in rows.split(ROWS_PER_SCORING):
                    part_right, part_loss = self._measure(fold, part)
                    right += part_right
                    loss += part_loss
            epochs.append(epoch)
            top1.append((right / num_heldout).cpu().numpy())
            losses.append((loss / num_heldout).cpu().numpy())
        return Curves(epochs, np.stack(top1), np.stack(losses))

    @torch.no_grad()
    def _measure(self, head: Head, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows that each probe gets right, and its summed loss (P,)."""
        logits = head(*self.train.take(rows))
        best = logits.argmax(dim=2, keepdim=True)
        truth = self.targets_NC[rows][:, None].expand(-1, logits.shape[1], -1)
        return truth.gather(2, best)[..., 0].float().sum(dim=0), self._losses(logits, rows).sum(dim=0)

    def refit(
        self, points: list[Point], chosen: list[int], test: Input, on_epoch: Callable[[int], None]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Train the chosen points on all rows; return test scores at the chosen epoch and at the last."""
        head, optimizer = self._start(points)
        test = test.to(self.device)
        everything = torch.ones(1, len(self.train), dtype=torch.bool, device=self.device)
        scores: dict[int, np.ndarray] = {}
        wanted = {*chosen, self.spec.epochs}
        for epoch in self._epochs([(head, everything)], optimizer):
            on_epoch(epoch)
            if epoch in wanted:
                scores[epoch] = self._score(head, test)
        return [(scores[epoch][:, i], scores[self.spec.epochs][:, i]) for i, epoch in enumerate(chosen)]

    def _start(self, points: list[Point]) -> tuple[Head, GridAdamW]:
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

    def _epochs(self, blocks: list[tuple[Head, Tensor]], optimizer: GridAdamW) -> Iterator[int]:
        """Yield after every epoch (counted from 1).

        Parameters
        ----------
        blocks : list of (Head, Tensor of shape (F, N), bool)
            Heads of equally many probes a fold, fold by fold, and the rows that each fold learns from.
        optimizer : GridAdamW
            Of all blocks.
        """
        generator = seeded(self.spec.seed)
        num_steps = self.spec.epochs * math.ceil(len(self.train) / self.batch_size)
        warmup = max(1, round(WARMUP_SHARE * num_steps))
        is_used = torch.cat([learns_FN for _, learns_FN in blocks]).any(dim=0)
        step = 0
        for epoch in range(1, self.spec.epochs + 1):
            rows, crops = self.train.shuffled(generator, by_crop=self.by_crop)
            for part in torch.arange(len(self.train)).split(self.batch_size):
                at, of_crop = rows[part].to(self.device), None if crops is None else crops[part].to(self.device)
                if not (used := is_used[at]).all():
                    at, of_crop = at[used], None if of_crop is None else of_crop[used]
                features, valid = self.train.take(at, of_crop)
                for head, learns_FN in blocks:
                    self._learn(head, learns_FN[:, at], at, features, valid)
                step += 1
                optimizer.step(warm_up_cosine(step, num_steps, warmup))
            yield epoch

    def _learn(self, head: Head, learns_FB: Tensor, rows: Tensor, features: Tensor, valid: Tensor | None) -> None:
        if len(learns_FB) == 1 and not (learns := learns_FB[0]).all():
            rows, features, valid = rows[learns], features[learns], None if valid is None else valid[learns]
            learns_FB = learns_FB[:, learns]
        weights_BF = learns_FB.T / learns_FB.sum(dim=1).clamp_min(1)
        head.learn(features, valid, self._slope(rows, weights_BF))

    def _slope(self, rows: Tensor, weights_BF: Tensor) -> Slope:
        """Return the function from logits to the derivative of the weighted loss: what is predicted less what is."""

        def slope(logits_BPC: Tensor) -> Tensor:
            if self.is_multilabel:
                slopes = logits_BPC.sigmoid_().sub_(self.targets_NC[rows][:, None].to(logits_BPC.dtype))
            else:
                # torch.softmax takes five times as long over a dozen classes, and new memory.
                slopes = logits_BPC.sub_(logits_BPC.amax(dim=2, keepdim=True)).exp_()
                slopes.div_(slopes.sum(dim=2, keepdim=True))
                wanted = self.class_N[rows][:, None, None].expand(-1, slopes.shape[1], 1)
                slopes.scatter_add_(2, wanted, torch.full((), -1.0, device=slopes.device).expand(wanted.shape))
            slopes.unflatten(1, (weights_BF.shape[1], -1)).mul_(weights_BF[..., None, None])
            return slopes

        return slope

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
