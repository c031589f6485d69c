"""The learning result of docs/learning.md, once, small: the order of things is learned where pooling is blind."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import aggregate

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
def test_scale_sees_when_and_where_and_pooling_does_not(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("_latent_actions", "_probing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    from _latent_actions import LatentActions, generate
    from _probing import knn_hits

    config = LatentActions(distractors=0.15)
    x, where, labels = generate(config, 512, world=7, seed=0)
    test_x, test_where, truth = generate(config, 300, world=7, seed=1)
    pooled = knn_hits(x.mean(1), labels, test_x.mean(1), truth).mean()
    small = {"dim": 48, "num_heads": 3, "head_hidden_dim": 128, "target_hidden_dim": 128, "projection_dim": 64}
    result = aggregate.train(
        x, where, epochs=60, batch_size=64, learning_rate=1.5e-3, set_size=6, model=small, device="cpu"
    )
    learned = [aggregate.embed(result.model, *v)[0].numpy() for v in ((x, where), (test_x, test_where))]
    accuracy = knn_hits(learned[0], labels, learned[1], truth).mean()
    assert pooled < 0.35
    assert accuracy > 0.8
    # Shuffling when the crops were seen takes it away: it is order that was learned.
    shuffled = test_where[:, np.random.default_rng(0).permutation(test_where.shape[1])]
    blind = aggregate.embed(result.model, test_x, shuffled)[0].numpy()
    assert knn_hits(learned[0], labels, blind, truth).mean() < 0.5
