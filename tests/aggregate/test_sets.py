from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregate.data.batch import draw_mask
from aggregate.data.geometry import END_S, START_S
from aggregate.data.sets import disjoint_sets, even_counts, global_local_sets, long_short_sets
from tests.support.set_batches import crop_batch, set_batch

SHAPES = {
    "num_videos": st.integers(1, 6),
    "width": st.integers(1, 12),
    "set_size": st.integers(1, 9),
    "share": st.floats(0, 1),
    "seed": st.integers(0, 10_000),
}


def draw(splitter, num_videos, width, share, seed):
    crops = crop_batch(num_videos, width, seed=seed, share_valid=share)
    return crops, splitter(crops.valid, crops.raw_geometry, torch.Generator().manual_seed(seed))


@given(**SHAPES, num_sets=st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_disjoint_sets_share_nothing_and_waste_nothing(num_videos, width, set_size, share, seed, num_sets):
    crops, sets = draw(disjoint_sets(set_size, num_sets), num_videos, width, share, seed)
    for b in range(num_videos):
        dealt = [sets.crops[b, s][sets.valid[b, s]].tolist() for s in range(num_sets)]
        every = [crop for part in dealt for crop in part]
        assert len(every) == len(set(every))
        assert all(crops.valid[b, c] for c in every)
        assert len(every) == min(int(crops.valid[b].sum()), num_sets * set_size)
        sizes = [len(d) for d in dealt]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] - sizes[-1] <= 1
    assert not sets.crops[~sets.valid].any()


def test_a_full_video_is_one_permutation_cut_in_two():
    crops, sets = draw(disjoint_sets(8), 4, 16, 1.0, 3)
    assert sets.valid.all()
    assert all(sorted(sets.crops[b].flatten().tolist()) == list(range(16)) for b in range(4))
    again = disjoint_sets(8)(crops.valid, crops.raw_geometry, torch.Generator().manual_seed(3))
    assert torch.equal(again.crops, sets.crops)
    other = disjoint_sets(8)(crops.valid, crops.raw_geometry, torch.Generator().manual_seed(4))
    assert not torch.equal(other.crops, sets.crops)


def test_every_crop_is_as_likely_in_either_set():
    valid = torch.ones(4000, 6, dtype=torch.bool)
    sets = disjoint_sets(3)(valid, torch.zeros(4000, 6, 9), torch.Generator().manual_seed(0))
    share = torch.stack([(sets.crops[:, 0] == c).any(1).float().mean() for c in range(6)])
    torch.testing.assert_close(share, torch.full((6,), 0.5), atol=0.04, rtol=0)


def test_few_crops_are_dealt_evenly():
    assert even_counts(torch.tensor([0, 1, 5, 16, 20]), 8, 2).tolist() == [[0, 0], [1, 0], [3, 2], [8, 8], [8, 8]]


@given(**SHAPES)
@settings(max_examples=40, deadline=None)
def test_local_sets_stay_in_their_window_and_are_never_empty(num_videos, width, set_size, share, seed):
    window = 0.3
    crops, sets = draw(global_local_sets(1, 2, set_size, set_size, window), num_videos, width, share, seed)
    middle = (crops.raw_geometry[..., START_S] + crops.raw_geometry[..., END_S]) / 2
    for b in range(num_videos):
        if not crops.valid[b].any():
            assert not sets.valid[b].any()
            continue
        span = middle[b][crops.valid[b]].max() - middle[b][crops.valid[b]].min()
        for s in range(3):
            kept = sets.crops[b, s][sets.valid[b, s]]
            assert len(kept) > 0
            assert len(set(kept.tolist())) == len(kept)
            assert crops.valid[b, kept].all()
            if s > 0:
                assert middle[b, kept].max() - middle[b, kept].min() <= window * span + 1e-4


def test_long_and_short_may_share_crops_and_each_is_one_target():
    batch = set_batch(5, 6, splitter=long_short_sets(6, window=0.7), seed=1)
    assert batch.target_index is not None
    distinct = {(b, int(c)) for b in range(5) for c in batch.crops[b][batch.valid[b]]}
    assert len(batch.target_index) == len(distinct)
    flat = batch.features.flatten(0, 2)
    for position in batch.valid.flatten().nonzero().squeeze(1).tolist():
        target = batch.target_index[batch.target_of_token[position]]
        assert torch.equal(flat[target], flat[position])


def test_only_valid_crops_are_masked_at_about_the_ratio():
    valid = torch.rand(200, 2, 8, generator=torch.Generator().manual_seed(0)) < 0.7
    masked = draw_mask(valid, 0.25, torch.Generator().manual_seed(1))
    assert not masked[~valid].any()
    assert abs(float(masked[valid].float().mean()) - 0.25) < 0.03
    assert not draw_mask(valid, 0.0, torch.Generator().manual_seed(1)).any()


def test_gathered_crops_are_the_chosen_ones():
    crops = crop_batch(4, 6, seed=2)
    batch = set_batch(4, 6, seed=2)
    for b in range(4):
        for s in range(2):
            for v in range(3):
                stored = int(batch.crops[b, s, v])
                assert torch.equal(batch.features[b, s, v], crops.pool_features[b, stored])
                assert torch.equal(batch.geometry[b, s, v], crops.pool_geometry[b, stored])
                assert torch.equal(batch.raw_geometry[b, s, v], crops.raw_geometry[b, stored])
