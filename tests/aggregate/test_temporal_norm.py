"""Temporal group normalisation: equals its slow twin, keeps what the set transformer promises, costs no old model."""

from __future__ import annotations

import pytest
import torch

from aggregate import ScaleModel, train
from aggregate.network.temporal_norm import EPSILON, TemporalGroupNorm, time_groups
from pipeline.recipe import ModelSpec
from tests.support.set_batches import TINY, crop_batch

GROUPED = TINY.model_copy(update={"norm": "temporal_group", "norm_groups": 3})


def test_equals_its_slow_twin() -> None:
    torch.manual_seed(0)
    x, group = torch.randn(4, 6, 8), torch.randint(-1, 3, (4, 6))
    norm = TemporalGroupNorm(8, 2)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    found = norm(x, group)
    for r in range(4):
        for g in range(3):
            at = (group[r] == g).nonzero()[:, 0]
            if len(at):
                own = x[r, at].double()
                wanted = (own - own.mean()) / torch.sqrt(own.var(correction=0) + EPSILON)
                wanted = wanted * norm.weight[g].double() + norm.bias[g].double()
                torch.testing.assert_close(found[r, at].double(), wanted, rtol=1e-5, atol=1e-5)


def test_crops_are_grouped_by_their_time_in_the_set() -> None:
    start = torch.tensor([[0.0, 9.0, 3.0, 6.0, 100.0]])
    valid = torch.tensor([[True, True, True, True, False]])
    assert time_groups(start, start + 2, valid, 3).tolist() == [[3, 0, 2, 1, 2, -1]]
    assert time_groups(start[:, :1], start[:, :1], None, 3).tolist() == [[3, 0]]  # a single time


def test_the_set_token_depends_neither_on_order_nor_on_invalid_crops() -> None:
    batch = crop_batch(3, 5, share_valid=0.7)
    model = ScaleModel(8, GROUPED).eval()
    torch.nn.init.normal_(model.set_cls_token)
    x, where, valid = batch.pool_features, batch.pool_geometry, batch.valid
    token, tokens = model(x, where, valid)
    order = torch.randperm(5)
    torch.testing.assert_close(model(x[:, order], where[:, order], valid[:, order])[0], token)
    spoilt = torch.where(valid[..., None], x, torch.nan)
    torch.testing.assert_close(model(spoilt, where, valid)[0], token)
    wanted = valid.flatten().nonzero()[:, 0]
    some_token, some = model(x, where, valid, None, wanted)
    torch.testing.assert_close(some_token, token)
    torch.testing.assert_close(some, tokens.flatten(0, 1)[wanted])


def test_it_trains_and_is_no_part_of_other_models() -> None:
    batch = crop_batch(8, 6)
    options = GROUPED.model_dump()
    result = train(batch.pool_features, batch.pool_raw_geometry, epochs=2, batch_size=4, set_size=3, model=options,
                   device="cpu")  # fmt: skip
    assert result.history[-1]["loss"] > 0
    assert any(name.endswith("norm1.bias") and value.ndim == 2 for name, value in result.model.state_dict().items())
    assert "norm" not in ModelSpec().model_dump()  # older models keep their fingerprints
    with pytest.raises(ValueError, match="geometry time or all"):
        ModelSpec(norm="temporal_group", geometry="box")
