"""The learning result of docs/learning.md, once, small: the order of things is learned where pooling is blind."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import aggregate

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_actions_of_one_order_differ_in_place_alone(monkeypatch):
    """Neither the mean nor anything that looks at times alone can tell them apart."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "_latent_actions", raising=False)
    from _latent_actions import LatentActions, generate

    config = LatentActions(
        num_actions=8, num_times=4, num_crops=60, distractors=0, background=0, noise=0, orders=2, crop_share=0.05
    )
    x, where, labels = generate(config, 120, world=3, seed=0)
    start_s, end_s = where[..., 0], where[..., 1]
    duration_s = (end_s - start_s).mean(1, keepdims=True) / 0.05
    moment = ((start_s + end_s) / 2 / duration_s * 4).astype(int).clip(0, 3)
    at_edge = np.abs((start_s + end_s) / 2 / duration_s * 4 % 1 - 0.5) > 0.49
    side = (where[..., 3] > 100).astype(int)
    shown = {}
    for action in range(8):
        here = labels == action
        for t in range(4):
            for s in range(2):
                seen = np.unique(x[here][(moment[here] == t) & (side[here] == s) & ~at_edge[here]].round(4), axis=0)
                assert len(seen) == 1
                shown[action, t, s] = tuple(seen[0])
    for a in range(8):
        for b in range(a + 1, 8):
            by_time = [{shown[c, t, s] for s in range(2)} for t in range(4) for c in (a, b)]
            same = [by_time[2 * t] == by_time[2 * t + 1] for t in range(4)]
            assert all(same) if (a - b) % 2 == 0 else not any(same)
            assert sum(shown[a, t, s] != shown[b, t, s] for t in range(4) for s in range(2)) >= 4


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
