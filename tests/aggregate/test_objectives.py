"""Every objective against a slow twin: loops over masked crops, videos and options, nothing clever."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregate import ScaleModel, load_reference_state_dict
from aggregate.data.batch import SetBatch
from aggregate.data.sets import global_local_sets, long_short_sets
from aggregate.objectives import (
    MaskedCropModelling,
    NTXent,
    ObjectiveInput,
    SetContrast,
    WeightedSum,
    build_objective,
    info_nce,
    nearest_in_other_sets,
)
from aggregate.training.encode import encode_sets
from pipeline.errors import InvalidInputError
from pipeline.recipe import ScaleObjective
from tests.support.reference_scale import ReferenceScale, randomised
from tests.support.set_batches import TINY, set_batch

NEGATIVES = ("all", "other_videos", "no_siblings")


def model_for(seed: int = 0) -> ScaleModel:
    torch.manual_seed(seed)
    model = ScaleModel(8, TINY).eval()
    with torch.no_grad():
        model.set_cls_token.normal_()
        model.msk_token.normal_()
    return model


def score(objective, model: ScaleModel, batch: SetBatch, tokens=None):
    encoded = encode_sets(model, batch, tokens=tokens or objective.needs_tokens)
    return objective(ObjectiveInput({"main": encoded}))


def cosine(a, b) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float(a @ b / max(float(a.norm()), 1e-12) / max(float(b.norm()), 1e-12))


def slow_mcm(model: ScaleModel, batch: SetBatch, tau: float, negatives: str, positives: str) -> float:
    """Loop over every masked crop; its candidates are the distinct valid crops of the batch."""
    _, tokens = model(
        batch.features.flatten(0, 1),
        batch.geometry.flatten(0, 1),
        batch.valid.flatten(0, 1),
        batch.masked.flatten(0, 1),
    )
    tokens = tokens.view(*batch.shape, -1)
    num_videos, num_sets, num_crops = batch.shape
    crops = {}  # (video, stored crop) -> feature: a crop that two sets share is there once
    for b in range(num_videos):
        for s in range(num_sets):
            for v in range(num_crops):
                if batch.valid[b, s, v]:
                    crops[b, int(batch.crops[b, s, v])] = batch.features[b, s, v]
    losses = []
    for b in range(num_videos):
        for s in range(num_sets):
            for v in range(num_crops):
                if not batch.masked[b, s, v]:
                    continue
                own = positive = (b, int(batch.crops[b, s, v]))
                if positives == "nearest":
                    best = -2.0
                    for s2 in range(num_sets):
                        for v2 in range(num_crops):
                            key = (b, int(batch.crops[b, s2, v2]))
                            if s2 == s or not batch.valid[b, s2, v2] or key == own:
                                continue
                            similarity = cosine(crops[own], crops[key])
                            if similarity > best:
                                best, positive = similarity, key
                prediction = model.dense_pred_head(tokens[b, s, v])
                numerator, denominator = None, 0.0
                for key, feature in crops.items():
                    value = math.exp(cosine(prediction, model.dense_target_head(feature)) / tau)
                    same_video = key[0] == b
                    sibling = int(batch.group_ids[key[0]]) == int(batch.group_ids[b])
                    if key == positive:
                        numerator = value
                    elif key == own or (negatives != "all" and same_video) or (negatives == "no_siblings" and sibling):
                        continue
                    denominator += value
                losses.append(-math.log(numerator / denominator))
    return sum(losses) / len(losses) if losses else 0.0


def slow_set(model: ScaleModel, batch: SetBatch, tau: float, negatives: str, *, both_views: bool, masks: bool) -> float:
    """Loop over anchors and candidates."""
    tokens, _ = model(
        batch.features.flatten(0, 1),
        batch.geometry.flatten(0, 1),
        batch.valid.flatten(0, 1),
        batch.masked.flatten(0, 1) if masks else None,
    )
    z = model.set_head(tokens).view(*batch.shape[:2], -1)
    usable = [b for b in range(batch.shape[0]) if batch.valid[b, 0].any() and batch.valid[b, 1].any()]
    losses = []
    for b in usable:
        for view in (0, 1):
            denominator = numerator = math.exp(cosine(z[b, view], z[b, 1 - view]) / tau)
            for other in usable:
                sibling = int(batch.group_ids[other]) == int(batch.group_ids[b])
                if other == b or (negatives == "no_siblings" and sibling):
                    continue
                for their in (0, 1) if both_views else (1 - view,):
                    denominator += math.exp(cosine(z[b, view], z[other, their]) / tau)
            losses.append(-math.log(numerator / denominator))
    return sum(losses) / len(losses) if losses else 0.0


SPLITTERS = {
    "disjoint": None,
    "long_short": long_short_sets(3, window=0.6),
    "global_local": global_local_sets(2, 2, 3, 2, window=0.5),
}


@pytest.mark.parametrize("splitter", SPLITTERS)
@pytest.mark.parametrize("share_valid", [1.0, 0.6])
@pytest.mark.parametrize("positives", ["identity", "nearest"])
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_masked_crop_modelling_equals_its_twin(negatives, positives, share_valid, splitter):
    batch = set_batch(num_groups=3, share_valid=share_valid, splitter=SPLITTERS[splitter], seed=4)
    assert batch.num_masked > 3
    model = model_for()
    result = score(MaskedCropModelling(0.2, negatives, positives), model, batch)
    expected = slow_mcm(model, batch, 0.2, negatives, positives)
    assert float(result.loss.detach()) == pytest.approx(expected, abs=1e-5)


@given(
    seed=st.integers(0, 10_000),
    num_videos=st.integers(1, 5),
    share_valid=st.floats(0.0, 1.0),
    mask_ratio=st.floats(0.0, 0.9),
    negatives=st.sampled_from(NEGATIVES),
    positives=st.sampled_from(["identity", "nearest"]),
)
@settings(max_examples=40, deadline=None)
def test_masked_crop_modelling_equals_its_twin_on_any_batch(
    seed, num_videos, share_valid, mask_ratio, negatives, positives
):
    batch = set_batch(num_videos, num_groups=2, share_valid=share_valid, mask_ratio=mask_ratio, seed=seed)
    model = model_for()
    result = score(MaskedCropModelling(0.2, negatives, positives), model, batch)
    assert float(result.loss) == pytest.approx(slow_mcm(model, batch, 0.2, negatives, positives), abs=1e-5)
    result.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("share_valid", [1.0, 0.35])
@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("kind", [SetContrast, NTXent])
def test_set_contrast_and_nt_xent_equal_their_twins(kind, negatives, share_valid):
    batch = set_batch(7, num_groups=3, share_valid=share_valid, mask_ratio=0.0 if kind is NTXent else 0.4, seed=9)
    model = model_for()
    result = score(kind(0.2, negatives), model, batch)
    expected = slow_set(model, batch, 0.2, negatives, both_views=kind is NTXent, masks=kind.masks)
    assert float(result.loss) == pytest.approx(expected, abs=1e-5)


def test_both_losses_equal_the_released_code():
    reference = randomised(ReferenceScale(8, 32, p=12, head=24, target=20), seed=1)
    model = load_reference_state_dict(reference.state_dict()).eval()
    batch = set_batch(6, 8, set_size=4, mask_ratio=0.25, seed=2)
    set_loss, dense_loss = reference.losses(batch.features, batch.geometry, batch.masked)
    result = score(build_objective(ScaleObjective()), model, batch)
    assert float(result.logs["set_loss"]) == pytest.approx(float(set_loss), abs=1e-5)
    assert float(result.logs["mcm_loss"]) == pytest.approx(float(dense_loss), abs=1e-5)
    assert float(result.loss) == pytest.approx(float(set_loss + dense_loss) / 2, abs=1e-5)


def test_gradients_equal_those_of_the_released_code():
    reference = randomised(ReferenceScale(8, 32, p=12, head=24, target=20), seed=1)
    model = load_reference_state_dict(reference.state_dict()).eval()
    batch = set_batch(6, 8, set_size=4, mask_ratio=0.25, seed=2)
    sum(reference.losses(batch.features, batch.geometry, batch.masked)).backward()
    (2 * score(build_objective(ScaleObjective()), model, batch).loss).backward()
    expected = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=2e-5, rtol=1e-4, msg=name)


def test_padding_with_invalid_crops_changes_no_loss():
    batch = set_batch(5, 6, seed=3)
    wide = SetBatch(
        features=torch.cat((batch.features, torch.full((5, 2, 2, 8), torch.nan)), 2),
        geometry=torch.cat((batch.geometry, torch.zeros(5, 2, 2, 7)), 2),
        stored_raw_geometry=batch.stored_raw_geometry,
        stored_index=torch.zeros(50, dtype=torch.int64),
        valid=torch.cat((batch.valid, torch.zeros(5, 2, 2, dtype=torch.bool)), 2),
        masked=torch.cat((batch.masked, torch.zeros(5, 2, 2, dtype=torch.bool)), 2),
        all_valid=False,
        masked_index=batch.masked_index + 2 * (batch.masked_index // 3),
        target_index=torch.arange(30) + 2 * (torch.arange(30) // 3),
        target_of_token=torch.where(
            torch.arange(50) % 5 < 3, torch.arange(50) // 5 * 3 + torch.arange(50) % 5, torch.tensor(-1)
        ),
        crops=torch.cat((batch.crops, torch.zeros(5, 2, 2, dtype=torch.int64)), 2),
        video_ids=batch.video_ids,
        group_ids=batch.group_ids,
    )
    model = model_for()
    for spec in (ScaleObjective(), ScaleObjective(negatives="other_videos", positives="nearest")):
        objective = build_objective(spec)
        torch.testing.assert_close(score(objective, model, wide).loss, score(objective, model, batch).loss)


@pytest.mark.parametrize("objective", [MaskedCropModelling(), build_objective(ScaleObjective())])
def test_a_batch_without_masked_crops_has_a_gradient_all_the_same(objective):
    batch = set_batch(mask_ratio=0.0)
    model = model_for()
    result = score(objective, model, batch)
    result.loss.backward()
    assert float(result.logs["mcm_loss"]) == 0.0
    assert math.isnan(float(result.logs["mcm_accuracy"]))
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("negatives", ["other_videos", "no_siblings"])
def test_one_video_left_has_no_negatives_and_no_loss(negatives):
    for batch in (set_batch(1), set_batch(4, num_groups=1)):
        if negatives == "other_videos" and len(batch.video_ids) > 1:
            continue
        model = model_for()
        for objective in (MaskedCropModelling(0.2, negatives), SetContrast(0.2, negatives), NTXent(0.2, negatives)):
            result = score(objective, model, batch)
            result.loss.backward()
            if not isinstance(objective, NTXent):  # a view of the video itself is no negative either
                assert float(result.loss) == pytest.approx(0.0, abs=1e-6)
            assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_nearest_is_in_another_set_or_the_crop_itself():
    batch = set_batch(6, 6, share_valid=0.5, seed=11, mask_ratio=0.7)
    found = nearest_in_other_sets(batch)
    per_video, per_set = 6, 3
    for own, other in zip(batch.masked_index.tolist(), found.tolist(), strict=True):
        assert own // per_video == other // per_video
        if own != other:
            assert own // per_set != other // per_set
            assert batch.valid.flatten()[other]
        else:
            siblings = batch.valid[own // per_video].clone()
            siblings[(own % per_video) // per_set] = False
            assert not siblings.any()


def test_weighted_sum_is_the_weighted_mean_and_drops_what_weighs_nothing():
    batch, model = set_batch(seed=5), model_for()
    mcm, contrast = score(MaskedCropModelling(), model, batch), score(SetContrast(), model, batch)
    both = score(WeightedSum([(3.0, SetContrast()), (1.0, MaskedCropModelling())]), model, batch)
    torch.testing.assert_close(both.loss, (3 * contrast.loss + mcm.loss) / 4)
    alone = build_objective(ScaleObjective(mcm_weight=0.0))
    assert alone.needs_tokens == "none"
    torch.testing.assert_close(score(alone, model, batch).loss, contrast.loss)
    with pytest.raises(InvalidInputError, match="positive weight"):
        build_objective(ScaleObjective(mcm_weight=0.0, set_weight=0.0))


def test_all_tokens_serve_the_masked_loss_too():
    batch, model = set_batch(seed=6), model_for()
    some = score(MaskedCropModelling(), model, batch)
    every = score(MaskedCropModelling(), model, batch, tokens="all")
    torch.testing.assert_close(every.loss, some.loss)


def test_info_nce_gradient_is_right():
    g = torch.Generator().manual_seed(0)
    queries = torch.randn(3, 4, generator=g, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(5, 4, generator=g, dtype=torch.float64, requires_grad=True)
    excluded = torch.rand(3, 5, generator=g) < 0.4
    positive = torch.tensor([1, 0, 4])

    def loss(q, k):
        return info_nce(q, k, positive, temperature=0.5, excluded_MN=excluded)[0]

    assert torch.autograd.gradcheck(loss, (queries, keys))


def test_what_is_computed_is_what_is_scored():
    batch, model = set_batch(6, 8, set_size=4, mask_ratio=0.25, seed=2), model_for()
    seen = {}
    for name in ("dense_pred_head", "dense_target_head", "set_head"):
        getattr(model, name).register_forward_hook(
            lambda _m, args, _o, name=name: seen.__setitem__(name, args[0].shape[:-1].numel())
        )
    score(build_objective(ScaleObjective()), model, batch)
    assert seen == {"dense_pred_head": batch.num_masked, "dense_target_head": 6 * 8, "set_head": 12}
    shared = set_batch(6, 8, splitter=long_short_sets(8, window=0.5), mask_ratio=0.5, seed=2)
    score(build_objective(ScaleObjective()), model, shared)
    assert seen["dense_target_head"] == 6 * 8  # crops that both sets hold are projected once
