"""The slow twin of the contrast between orders of time: a video, a set, an order and a crop at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from aggregate.objectives.order_contrast import drawn_stretches


def moved(moment: float, k: int, cuts: list[float], places: list[int]) -> float:
    """Where a moment lies when stretches are laid one after another, in the order of `places`."""
    if k < 2:
        return moment if k == 0 else 1 - moment
    edges, at = [0.0, *cuts, 1.0], 0.0
    for i in places:
        if edges[i] <= moment < edges[i + 1] or (moment == 1 and i == len(places) - 1):
            return at + moment - edges[i]
        at += edges[i + 1] - edges[i]
    raise AssertionError(moment)


def slow_order_contrast(w: Any) -> float:
    model, batch, g = w.models["main"], w.batch, torch.Generator().manual_seed(3)
    cuts, places = (x.tolist() for x in drawn_stretches(3, g))
    z = {}
    for v in w.usable():
        kept = [[j for j in range(3) if batch.valid[v, s, j]] for s in (0, 1)]
        times = torch.cat([batch.geometry[v, s, kept[s], 5:] for s in (0, 1)])
        low, high = float(times.min()), float(times.max())
        for k in range(3):
            for s in (0, 1):
                geometry = batch.geometry[v, s, kept[s]].clone()
                for row in geometry:
                    half, middle = float(row[6] - row[5]) / 2, (float(row[5] + row[6]) / 2 - low) / (high - low)
                    at = low + (high - low) * moved(middle, k, cuts, places)
                    row[5], row[6] = at - half, at + half
                token, _ = model(batch.features[v, s, kept[s]][None], geometry[None])
                z[v, k, s] = functional.normalize(model.set_head(token)[0], dim=-1).detach().double()
    losses = []
    for (v, k, s), anchor in z.items():
        keys = [key for key in z if key[2] != s and (w.spec.negatives == "all" or key[0] == v)]
        scores = torch.stack([anchor @ z[key] / 0.1 for key in keys])
        losses.append(-float(scores.log_softmax(0)[keys.index((v, k, 1 - s))]))
    return float(np.mean(losses))
