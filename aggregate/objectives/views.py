"""Long and short sets of one video: TeG's two granularities, and SVT's self-distillation.

TeG (Qian et al., ICCV 2022), the long set over the whole video and the short set inside a window:

    L = w L_fine + (1 - w) L_persistent;   L_persistent = NCE(z_short, z_long) over videos, both directions,
    L_fine = mean_i -log sum_{j: IoU_t(i, j) > 0} exp(z_i . z_j / tau) / sum_j exp(z_i . z_j / tau)

i being crops of short sets, j all crops of long sets in the batch: other times of the video and other videos are
negatives. A crop that both sets hold is no pair: frozen features would make it one for nothing.

SVT (Ranasinghe et al., CVPR 2022), which is DINO on views of a video: with the student's outputs s_v of every set, the
teacher's t_u (moving average, unmasked) of global sets and a running centre c,

    L = mean over u global, v != u of -sum softmax((t_u - c) / tau_t) log softmax(s_v / tau_s)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from aggregate.data.sets import Splitter, global_local_sets, long_short_sets
from aggregate.network.model import ScaleModel
from aggregate.objectives.build import build_objective
from aggregate.objectives.contrast import unit
from aggregate.objectives.interface import MAIN_STREAM, Objective, ObjectiveInput, ObjectiveResult, TokensNeeded
from aggregate.objectives.motion import symmetric_nce
from aggregate.objectives.relations import time_overlap
from aggregate.objectives.vicc import with_both_sets
from pipeline.recipe.objectives.views import SvtObjective, TegObjective


def fine_loss(queries_MP: Tensor, keys_NP: Tensor, positive_MN: Tensor, allowed_MN: Tensor, tau: float) -> Tensor:
    """Return the loss of the queries that have a positive; 0 where none has."""
    logits = (queries_MP @ keys_NP.mT / tau).masked_fill(~(allowed_MN | positive_MN), -torch.inf)
    usable = positive_MN.any(1)
    if not bool(usable.any()):
        return queries_MP.sum() * 0.0
    logits, positive = logits[usable], positive_MN[usable]
    return (logits.logsumexp(1) - logits.masked_fill(~positive, -torch.inf).logsumexp(1)).mean()


class Teg(Objective):
    """See the module; figures `teg_fine_loss`, `teg_persistent_loss`."""

    def __init__(self, spec: TegObjective) -> None:
        super().__init__()
        self.spec = spec
        self.needs_tokens: TokensNeeded = "all" if spec.fine_weight > 0 else "none"

    def splitter(self, set_size: int) -> Splitter | None:
        """Return a long set and a short one inside a window."""
        return long_short_sets(set_size, self.spec.window)

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score the long and the short set of every video."""
        encoded = inputs.main
        batch = encoded.batch
        loss, logs = encoded.set_tokens.sum() * 0.0, {}
        if self.spec.fine_weight < 1:
            z = unit(encoded.model.set_head(encoded.set_tokens[with_both_sets(encoded), :2]))
            part, _ = symmetric_nce(z[:, 0], z[:, 1], self.spec.temperature)
            loss, logs["teg_persistent_loss"] = loss + (1 - self.spec.fine_weight) * part, part.detach()
        if self.spec.fine_weight > 0:
            assert encoded.tokens is not None
            num_videos, _, num_crops = batch.shape
            z = unit(encoded.model.dense_pred_head(encoded.tokens[:, :2]))
            video = torch.arange(num_videos, device=z.device).repeat_interleave(num_crops)
            (long, short), (keep_long, keep_short) = (
                [x[:, k].flatten(0, 1) for k in (0, 1)] for x in (z, batch.valid[:, :2])
            )
            crop = [batch.crops[:, k].flatten() for k in (0, 1)]
            raw = [batch.raw_geometry[:, k].flatten(0, 1) for k in (0, 1)]
            queries, keys = keep_short.nonzero().squeeze(1), keep_long.nonzero().squeeze(1)
            same_video = video[queries][:, None] == video[keys][None]
            same_crop = same_video & (crop[1][queries][:, None] == crop[0][keys][None])
            overlap = time_overlap(raw[1][queries][:, None], raw[0][keys][None]) > 0
            with torch.autocast(z.device.type, enabled=False):
                part = fine_loss(
                    short[queries], long[keys], same_video & overlap & ~same_crop, ~same_crop, self.spec.temperature
                )
            loss, logs["teg_fine_loss"] = loss + self.spec.fine_weight * part, part.detach()
        return ObjectiveResult(loss, logs)


class Svt(Objective):
    """See the module; figures `svt_loss` and `svt_entropy` of the teacher (0: it says the same of every video)."""

    needs_teacher = True

    def __init__(self, spec: SvtObjective) -> None:
        super().__init__()
        self.spec = spec
        self.centre: Tensor
        self.outputs: nn.Parameter | None = None

    def bind(self, models: Mapping[str, ScaleModel]) -> None:
        """Make the outputs, and the centre."""
        width = next(iter(models.values())).spec.projection_dim
        if self.spec.outputs is not None:
            self.outputs = nn.Parameter(unit(torch.randn(self.spec.outputs, width)))
        self.register_buffer("centre", torch.zeros(self.spec.outputs or width))

    def splitter(self, set_size: int) -> Splitter | None:
        """Return global sets over the video and local ones of half the size inside windows."""
        return global_local_sets(
            self.spec.num_global, self.spec.num_local, set_size, max(set_size // 2, 1), self.spec.window
        )

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score every pair of a global set and another one."""
        student, teacher = inputs.main, inputs.teacher[MAIN_STREAM]
        outputs: Tensor | None = self.outputs
        if outputs is not None and inputs.progress < self.spec.frozen_until:
            outputs = outputs.detach()
        scores = told(student.model.set_head(student.set_tokens), outputs) / self.spec.student_temperature
        globals_told = teacher.model.set_head(teacher.set_tokens[:, : self.spec.num_global])
        targets = told(globals_told, outputs).detach()
        there = student.batch.set_valid
        q = ((targets - self.centre) / self.spec.teacher_temperature).softmax(-1)
        cross = -torch.einsum("bup,bvp->buv", q, scores.log_softmax(-1))
        pairs = there[:, : self.spec.num_global, None] & there[:, None, :]
        pairs = pairs & ~torch.eye(*pairs.shape[1:], dtype=torch.bool, device=pairs.device)
        loss = (cross * pairs).sum() / pairs.sum().clamp_min(1)
        mean_q = q[there[:, : self.spec.num_global]].mean(0)
        entropy = -(mean_q * mean_q.clamp_min(1e-12).log()).sum()
        if self.training and bool(there[:, : self.spec.num_global].any()):
            with torch.no_grad():
                mean = targets[there[:, : self.spec.num_global]].mean(0)
                self.centre.lerp_(mean, 1 - self.spec.centre_momentum)
        logs = {"svt_loss": loss.detach(), "svt_entropy": entropy.detach()}
        return ObjectiveResult(loss, logs, math.log(scores.shape[-1]))


def told(projected: Tensor, outputs: Tensor | None) -> Tensor:
    """Return how near unit projections are to each output; the projections as they are where there are none."""
    if outputs is None:
        return projected.float()
    with torch.autocast(projected.device.type, enabled=False):
        return unit(projected.float()) @ unit(outputs).mT


build_objective.register(TegObjective, Teg)
build_objective.register(SvtObjective, Svt)
