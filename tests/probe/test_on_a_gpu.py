"""Probes that are trained or solved on a GPU say what those on a CPU say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from probe.trained.convex import PathSpec, solve_path
from probe.trained.heads import HeadKind
from probe.trained.inputs import Input
from probe.trained.training import train_grid
from tests.probe.test_solver import probabilities
from tests.probe.test_training import FAST, alone, blobs, one_hot

pytestmark = pytest.mark.gpu

GPU = "cuda"


def sides(num_crops: int = 0) -> tuple[Input, np.ndarray, Input]:
    (x, y), (x_test, _) = blobs(0, 200), blobs(1, 80)
    if not num_crops:
        return Input.of(x), y, Input.of(x_test)
    rng = np.random.default_rng(0)
    many = [np.repeat(side[:, None], num_crops, 1) for side in (x, x_test)]
    many = [side + 0.1 * rng.standard_normal(side.shape).astype(np.float32) for side in many]
    valid = [rng.random(side.shape[:2]) < 0.8 for side in many]
    for mask in valid:
        mask[:, 0] = True
    train, test = (Input.of(side, mask) for side, mask in zip(many, valid, strict=True))
    return train, y, test


@pytest.mark.parametrize("num_crops", [0, 3])
@pytest.mark.parametrize("is_multilabel", [False, True])
def test_solved(num_crops: int, is_multilabel: bool) -> None:
    train, y, test = sides(num_crops)
    given = (PathSpec((0.01, 0.1, 1.0)), train, one_hot(y), alone(200), test)
    expected, found = (solve_path(*given, is_multilabel=is_multilabel, device=d) for d in ("cpu", GPU))
    assert found.penalty == expected.penalty
    np.testing.assert_allclose(probabilities(found.scores_QC), probabilities(expected.scores_QC), atol=5e-3)


@pytest.mark.parametrize("kind", ["linear", "mlp", "attentive"])
def test_trained(kind: HeadKind) -> None:
    train, y, test = sides(3)
    spec = replace(FAST, kind=kind, hidden_dim=16)
    ours, theirs = (train_grid(spec, train, one_hot(y), alone(200), test, device=d) for d in (GPU, "cpu"))
    found, expected = (torch.from_numpy(one[0].selected_scores_QC).softmax(1) for one in (ours, theirs))
    assert float((found - expected).abs().max()) <= 2e-2
