"""CMPL (Xu et al., CVPR 2022): two learners of different size teach each other.

A guess that one learner is sure of, on the weak view of a video (all its crops), is the label that the *other* one
learns on its strong view: a few random crops, and some channels dropped. Both learn the true labels on both views.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.compute.seeds import own_random
from probe.semi.task import Task, method

HIDDEN_DIM = 256
LEARNING_RATE = 1e-2
DROPPED_CHANNELS = 0.2
SCALE = 10.0
"""Vectors of length 1 are this much longer here: so is what a step of AdamW does to the scores."""


@method("cmpl")
def cmpl(task: Task) -> np.ndarray:
    """Train both, and average what they say of the weak view of test videos."""
    with own_random(task.seed):
        return _trained(task)


def _trained(task: Task) -> np.ndarray:
    num_classes, dim = task.truth.shape[1], task.train.shape[1]
    small = nn.Linear(dim, num_classes)
    large = nn.Sequential(nn.Linear(dim, HIDDEN_DIM), nn.GELU(), nn.Linear(HIDDEN_DIM, num_classes))
    learners = (small, large)
    weak, test = (SCALE * torch.from_numpy(np.asarray(x, np.float32)) for x in (task.train, task.test))
    truth = torch.from_numpy(task.targets()[task.labelled].astype(np.float32))
    labelled, unlabelled = torch.from_numpy(task.labelled), torch.from_numpy(task.unlabelled)
    parameters = [p for learner in learners for p in learner.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.1)
    rng = np.random.default_rng(task.seed)
    for step in range(task.spec.steps):
        strong = _strong_view(task, weak, rng)
        loss = torch.zeros(())
        for mine, other in (learners, learners[::-1]):
            known = torch.cat((weak[labelled], strong[labelled]))
            loss = loss + functional.cross_entropy(mine(known), truth.repeat(2, 1))
            if len(unlabelled):
                with torch.no_grad():
                    sure, guess = other(weak[unlabelled]).softmax(1).max(1)
                counts = (sure > task.spec.confidence).float() * min(1.0, step / (0.3 * task.spec.steps))
                loss = (
                    loss + (counts * functional.cross_entropy(mine(strong[unlabelled]), guess, reduction="none")).mean()
                )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found: np.ndarray = torch.stack([learner(test).softmax(1) for learner in learners]).mean(0).numpy()
    return found


def _strong_view(task: Task, weak: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a few random crops of every train video, pooled as the weak view is, with channels dropped."""
    view = weak
    if task.crops is not None:
        values, valid = task.crops
        order = np.argsort(np.where(valid, rng.random(valid.shape), np.inf), axis=1)
        number = rng.integers(1, task.spec.strong_crops + 1, size=len(valid))
        kept = np.zeros(valid.shape, bool)
        np.put_along_axis(kept, order, np.arange(valid.shape[1])[None] < number[:, None], axis=1)
        kept &= valid
        centre = np.einsum("nvd,nv->nd", values, valid / np.maximum(valid.sum(1, keepdims=True), 1)).mean(0)
        pooled = np.einsum("nvd,nv->nd", values, kept / np.maximum(kept.sum(1, keepdims=True), 1)) - centre
        view = SCALE * functional.normalize(torch.from_numpy(pooled.astype(np.float32)), dim=1)
    return functional.dropout(view, DROPPED_CHANNELS)
