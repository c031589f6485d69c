"""ViCC (Toering et al., WACV 2022): the prototypes that one view is assigned to are predicted from another view.

Scores ``s_v = z_v C^T`` of unit projections and unit prototypes; assignments ``q_v`` by Sinkhorn-Knopp on
``exp([queue; s_v] / eps)`` (no gradient), and over M views

    L = mean_v 1/(M - 1) sum_{u != v} CE(q_v, softmax(s_u / tau))

Single stage: the two sets of a video. Cross stage: two sets of two streams, all scored by the prototypes of the stream
whose turn it is; the other stream's network gets no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from aggregate.network.model import ScaleModel
from aggregate.objectives.build import build_objective
from aggregate.objectives.contrast import unit
from aggregate.objectives.interface import EncodedSets, Objective, ObjectiveInput, ObjectiveResult
from pipeline.recipe.objectives.vicc import ViccObjective


@torch.no_grad()
def sinkhorn(scores_NK: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    """Return balanced assignments (N, K): rows sum to 1, prototypes get about the same share.

    In turn each prototype's mass is made 1/K and each sample's 1/N, as SwAV's code does; logs keep it finite.
    """
    log_q = scores_NK.float() / epsilon
    log_q = log_q - log_q.logsumexp((0, 1))
    num_samples, num_prototypes = scores_NK.shape
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(0, keepdim=True) - torch.log(torch.tensor(float(num_prototypes)))
        log_q = log_q - log_q.logsumexp(1, keepdim=True) - torch.log(torch.tensor(float(num_samples)))
    return (log_q + torch.log(torch.tensor(float(num_samples)))).exp()


def swapped_loss(scores: list[Tensor], assignments: list[Tensor], temperature: float) -> Tensor:
    """Return the mean over views of how badly all other views predict their assignment."""
    total = scores[0].new_zeros(())
    for v, q in enumerate(assignments):
        for u, s in enumerate(scores):
            if u != v:
                total = total - (q * (s / temperature).log_softmax(-1)).sum(-1).mean() / (len(scores) - 1)
    return total / len(assignments)


class Vicc(Objective):
    """See the module; figures `vicc_loss` and `vicc_used`: prototypes that are somebody's first choice."""

    def __init__(self, spec: ViccObjective) -> None:
        super().__init__()
        self.spec = spec
        self.num_streams = 1 if spec.stage == "single" else 2
        self.prototypes = nn.ParameterList()
        self.queue: Tensor
        self.queue_filled: Tensor

    def bind(self, models: Mapping[str, ScaleModel]) -> None:
        """Make one set of prototypes a stream, and the queue of every view."""
        width = next(iter(models.values())).spec.projection_dim
        for _ in range(self.num_streams):
            weight = torch.empty(self.spec.prototypes, width)
            self.prototypes.append(nn.Parameter(unit(nn.init.kaiming_uniform_(weight, a=5**0.5))))
        num_views = 2 * self.num_streams
        self.register_buffer("queue", torch.zeros(self.num_streams, num_views, self.spec.queue, width))
        self.register_buffer("queue_filled", torch.zeros(self.num_streams, dtype=torch.int64))

    def turn(self, progress: float) -> int:
        """Return which stream learns now."""
        return int(progress * 2 * self.spec.cycles) % 2 if self.num_streams == 2 else 0

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score the first two sets of every video of the stream(s)."""
        turn = self.turn(inputs.progress)
        streams = [inputs.main] if self.num_streams == 1 else list(inputs.pair)
        both = with_both_sets(streams[0])
        z: list[Tensor] = []
        others = [i for i in range(len(streams)) if i != turn] if inputs.progress >= self.spec.cross_from else []
        for number in (turn, *others):
            projected = unit(streams[number].model.set_head(streams[number].set_tokens[both, :2]))
            z += [projected[:, k] if number == turn else projected[:, k].detach() for k in (0, 1)]
        if not len(both):
            nothing = sum((x.sum() * 0.0 for x in z), start=z[0].sum() * 0.0)
            return ObjectiveResult(nothing, {"vicc_loss": nothing.detach(), "vicc_used": nothing.detach()})
        with torch.autocast(z[0].device.type, enabled=False):
            drawn = self.prototypes[turn]
            prototypes = unit(drawn.detach() if inputs.progress < self.spec.frozen_until else drawn)
            scores = [x @ prototypes.mT for x in z]
            assignments = [self._assign(s, prototypes, turn, v, inputs.progress) for v, s in enumerate(scores)]
            loss = swapped_loss(scores, assignments, self.spec.temperature)
        self._remember(z, turn)
        used = scores[0].detach().argmax(-1).unique().numel()
        return ObjectiveResult(loss, {"vicc_loss": loss.detach(), "vicc_used": loss.new_tensor(float(used)).detach()})

    def _assign(self, scores: Tensor, prototypes: Tensor, turn: int, view: int, progress: float) -> Tensor:
        own = every = scores.detach()
        size = self.spec.queue
        if size and progress >= self.spec.queue_from and int(self.queue_filled[turn]) >= size:
            every = torch.cat((self.queue[turn, view] @ prototypes.detach().mT, own))
        q = sinkhorn(every, epsilon=self.spec.epsilon, iterations=self.spec.iterations)
        return q[len(every) - len(own) :]

    @torch.no_grad()
    def _remember(self, z: list[Tensor], turn: int) -> None:
        if not self.spec.queue:
            return
        for view, x in enumerate(z):
            self.queue[turn, view] = torch.cat((x.detach().float(), self.queue[turn, view]))[: self.spec.queue]
        self.queue_filled[turn] = (self.queue_filled[turn] + len(z[0])).clamp_max(self.spec.queue)


def with_both_sets(encoded: EncodedSets) -> Tensor:
    """Return the videos whose first two sets hold a crop, (B',) int64."""
    return encoded.batch.set_valid[:, :2].all(1).nonzero().squeeze(1)


build_objective.register(ViccObjective, Vicc)
