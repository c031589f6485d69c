"""The learning result of docs/learning.md, once, small: the order of things is learned where pooling is blind."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import aggregate
from pipeline.recipe import ModelSpec

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


def test_crops_of_made_up_videos_share_what_they_overlap_in_and_fast_ones_see_larger_changes(monkeypatch):
    """Speed and overlap are not written into a feature: they follow from the frames that a crop covers."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("_latent_actions", "_moving_videos"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    from _latent_actions import LatentActions
    from _moving_videos import Moving, generate_moving

    config = LatentActions(num_actions=8, num_times=4, num_crops=48, orders=2, background=0.0, seconds=(20.0, 24.0))
    silent = Moving(noise=0.0)
    x, where, labels = generate_moving(config, silent, 24, world=3, seed=0)
    again = generate_moving(config, silent, 24, world=3, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip((x, where, labels), again, strict=True))
    start, end, left, stride = (where[..., c] for c in (0, 1, 3, 7))
    assert np.allclose(end - start, 0.8 * stride, atol=1e-4)
    assert (start >= 0).all()
    assert (end <= 24.0001).all()

    shared = np.minimum(end[:, :, None], end[:, None]) - np.maximum(start[:, :, None], start[:, None])
    alike = (left[:, :, None] == left[:, None]) & (stride[:, :, None] == stride[:, None])
    alike &= ~np.eye(48, dtype=bool)
    apart = np.linalg.norm(x[:, :, None] - x[:, None], axis=-1)
    much, little = (alike & (shared > 0.8 * (end - start)[:, None])), (alike & (shared < -2))
    assert apart[much].mean() < 0.6 * apart[little].mean()

    still = generate_moving(config, Moving(noise=0.0, changes=0.0), 24, world=3, seed=0)[0]
    changes = np.linalg.norm(x - still, axis=-1)
    means = [changes[stride == speed].mean() for speed in (1, 2, 4)]
    assert means[0] * 1.2 < means[1]
    assert means[1] * 1.2 < means[2]


def test_questions_to_crops_are_asked_of_what_is_seen_alone(monkeypatch):
    """A network that reads a crop alone is told neither when it is nor how long it lasts; chance is what noise gets."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    monkeypatch.delitem(sys.modules, "_crop_questions", raising=False)
    from _crop_questions import alone, answered

    model = aggregate.ScaleModel(8, ModelSpec(dim=16, num_heads=2, head_hidden_dim=8, target_hidden_dim=8))
    rng = np.random.default_rng(0)
    start, stride = rng.uniform(0, 9, (24, 10)), rng.choice([1.0, 2.0, 4.0], (24, 10))
    zero = np.zeros_like(start)
    where = np.stack((start, start + stride, zero, zero, zero + 9, zero + 9, zero, stride, zero), -1).astype(np.float32)
    x = rng.normal(size=(24, 10, 8)).astype(np.float32)
    later = where.copy()
    later[..., :2] = later[..., :2] * 3 + 5
    seen = alone(model, x, where)
    assert seen.shape == (24, 10, 16)
    np.testing.assert_allclose(seen, alone(model, x, later), atol=1e-6)

    told = np.concatenate([x, 4 * stride[..., None]], -1)
    assert answered("speed", (told[:12], told[12:]), (where[:12], where[12:])) > 0.9
    assert answered("speed", (x[:12], x[12:]), (where[:12], where[12:])) < 0.7
    moments = np.arange(26) / 2 + 0.25
    covered = (moments > start[..., None]) & (moments < (start + stride)[..., None])
    seen, guessed = (
        answered("overlap", (a[:12], a[12:]), (where[:12], where[12:])) for a in (covered.astype(np.float32), x)
    )
    assert guessed < 0.35
    assert seen > guessed + 0.1
