"""Contrast in which the negatives share the scene: the same crops of the same video in other orders of time.

Set losses are solved by what is seen; when it is seen need not be known. Here every video is shown in K orders of
time (k = 0 as it is, k = 1 backwards, others cut into stretches that change places), the same for both of its sets, and
a set finds its partner in the same order. With unit projections z of video a in order k, first sets being queries and
second sets keys, and the other way round,

    L = -mean_{a,k} log exp(z1_ak . z2_ak / tau) / sum_{(b,l) in N(a)} exp(z1_ak . z2_bl / tau)

where N(a) are all videos in all orders, or with `negatives: own` video a's alone. What knows the scene and not the
order ends at log K. Every order is an anchor, so that it does not help to see that an order is no natural one. Time
equivariance of clips (Jenni & Jin, ICCV 2021) is the idea's relative on pixels.

Only the times that the network is shown are changed: crops, boxes and flips stay. Orders are a function of the step.

Legend: B = videos, V = crops a set, K = orders, P = projection channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from aggregate.network.model import TIME_FROM, TIME_TO, ScaleModel
from aggregate.objectives.build import build_objective
from aggregate.objectives.contrast import info_nce, unit
from aggregate.objectives.interface import EncodedSets, Objective, ObjectiveInput, ObjectiveResult
from aggregate.objectives.vicc import with_both_sets
from pipeline.compute.seeds import seeded
from pipeline.errors import InvalidInputError
from pipeline.recipe.objectives.order import OrderContrastObjective


def in_other_places(middle: Tensor, cuts: Tensor, places: Tensor) -> Tensor:
    """Return where moments lie after stretches of time changed places.

    Parameters
    ----------
    middle : Tensor
        Any shape, 0..1.
    cuts : Tensor
        (n - 1,) ascending, in (0, 1): stretch i ends at cut i.
    places : Tensor
        (n,) int64: which stretch comes first, second, ...
    """
    edges = torch.cat((cuts.new_zeros(1), cuts, cuts.new_ones(1)))
    lengths = edges.diff()
    starts = torch.empty_like(lengths)
    starts[places] = lengths[places].cumsum(0) - lengths[places]
    stretch = torch.bucketize(middle, cuts, right=True)
    return starts[stretch] + middle - edges[stretch]


def drawn_stretches(number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw cuts, no stretch shorter than a third of its fair share, and an order other than the present one."""
    parts = 1 / 3 + torch.rand(number, generator=generator)
    places = torch.randperm(number, generator=generator)
    if bool((places == torch.arange(number)).all()):
        places = places.roll(1)
    return (parts / parts.sum()).cumsum(0)[:-1], places


class OrderContrast(Objective):
    """See the module; figures `order_loss`, `order_accuracy`."""

    def __init__(self, spec: OrderContrastObjective) -> None:
        super().__init__()
        self.spec = spec

    def bind(self, models: Mapping[str, ScaleModel]) -> None:
        """Refuse a network that cannot see time.

        Raises
        ------
        InvalidInputError
            If `model.geometry` hides it.
        """
        for model in models.values():
            if not bool(model.visible_columns[TIME_FROM]):
                raise InvalidInputError(
                    "expected a model that sees when crops are for order_contrast, found model.geometry "
                    f"{model.spec.geometry!r}; set model.geometry to 'all' or 'time'"
                )

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score the first two sets of every video that has both, in every order."""
        encoded, both = inputs.main, with_both_sets(inputs.main)
        z = self._projected(encoded, both, inputs.step)
        num_videos, num_orders = z.shape[:2]
        keys = z.flatten(0, 1)
        own = torch.arange(len(keys), device=z.device)
        excluded = None
        if self.spec.negatives == "own":
            video = own // num_orders
            excluded = video[:, None] != video[None]
        found = [
            info_nce(keys[:, i], keys[:, 1 - i], own, temperature=self.spec.temperature, excluded_MN=excluded)
            for i in (0, 1)
        ]
        loss, accuracy = ((a + b) / 2 for a, b in zip(*found, strict=True))
        choices = num_orders if excluded is not None else num_orders * num_videos
        logs = {"order_loss": loss.detach(), "order_accuracy": accuracy}
        return ObjectiveResult(loss, logs, math.log(max(choices, 1)))

    def _projected(self, encoded: EncodedSets, both: Tensor, step: int) -> Tensor:
        """Return unit projections (B', K, 2, P) of both sets of every video in every order."""
        batch, model = encoded.batch, encoded.model
        valid, shown = batch.valid[both, :2], batch.geometry[both, :2]
        start = shown[..., TIME_FROM].masked_fill(~valid, torch.inf).amin((1, 2))[:, None, None]
        end = shown[..., TIME_TO].masked_fill(~valid, -torch.inf).amax((1, 2))[:, None, None]
        span = (end - start).clamp_min(1e-9)
        middle = ((shown[..., TIME_FROM] + shown[..., TIME_TO]) / 2 - start) / span
        half = (shown[..., TIME_TO] - shown[..., TIME_FROM]) / 2
        projected, valid_sets = encoded.projected(both, slice(2)).flatten(0, 1), valid.flatten(0, 1)
        # Crops that are hidden (for another part of a sum) are so in all orders: else hiding would tell the order.
        hidden = batch.masked[both, :2].flatten(0, 1) if batch.num_masked else None
        generator = seeded(step)
        tokens = [encoded.set_tokens[both, :2]]
        for k in range(1, self.spec.orders):
            if k == 1:
                moved = 1 - middle
            else:
                cuts, places = (x.to(middle.device) for x in drawn_stretches(self.spec.stretches, generator))
                moved = in_other_places(middle.clamp(0, 1), cuts, places)
            moved = start + span * moved
            geometry = shown.clone()
            geometry[..., TIME_FROM], geometry[..., TIME_TO] = moved - half, moved + half
            nobody = both.new_zeros(0)
            token, _ = model.contextualise(projected, geometry.flatten(0, 1), valid_sets, hidden, nobody)
            tokens.append(token.unflatten(0, (-1, 2)))
        return unit(model.set_head(torch.stack(tokens, 1)))


build_objective.register(OrderContrastObjective, OrderContrast)
