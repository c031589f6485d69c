from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregate import ScaleModel, derive_geometry, embed, fit_whitening
from aggregate.embeddings.embed import deal_sets, embedding_dim
from aggregate.embeddings.whitening import Whitening
from pipeline.errors import InvalidInputError, NoDataError, ShapeMismatchError
from pipeline.recipe.readout_words import OF_MODELS
from tests.support.set_batches import TINY, raw_geometry


def model_for(**changes) -> ScaleModel:
    torch.manual_seed(0)
    model = ScaleModel(8, TINY.model_copy(update=changes))
    with torch.no_grad():
        model.set_cls_token.normal_()
    return model


def videos(num: int = 7, crops: int = 6, share: float = 0.7, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    valid = torch.rand(num, crops, generator=g) < share
    return torch.randn(num, crops, 8, generator=g), raw_geometry(num, crops, g), valid


def slow_embed(model, x, raw, valid, readout, sets):
    """One video, one set at a time, only its valid crops, no padding."""
    model.eval()
    out = []
    for i in range(len(x)):
        kept = valid[i].nonzero().squeeze(1)
        geometry = derive_geometry(raw[i][None], valid[i][None])[0]
        mean = x[i, kept].mean(0)
        tokens = []
        for s in range(sets):
            mine = kept[torch.arange(len(kept)) % sets == s]
            if len(mine):
                tokens.append(model(x[i, mine][None], geometry[mine][None])[0][0])
        if not tokens:
            out.append(torch.zeros(embedding_dim(model, 8, readout)))
            continue
        cls = torch.stack(tokens).mean(0)
        out.append(
            {
                "mean": mean,
                "cls": cls,
                "joined": torch.cat((mean, cls)),
                "joined_normalised": torch.cat((mean / mean.norm(), cls / cls.norm())),
            }[readout]
        )
    return torch.stack(out)


@pytest.mark.parametrize("sets", [1, 2, 3])
@pytest.mark.parametrize("readout", [r for r in OF_MODELS if r != "whitened"])
def test_every_readout_equals_its_twin(readout, sets):
    model, (x, raw, valid) = model_for(), videos()
    values, present = embed(model, x, raw, valid, readout=readout, sets=sets, batch_size=3)
    with torch.no_grad():
        expected = slow_embed(model, x, raw, valid, readout, sets)
    assert torch.equal(present, valid.any(1))
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)


def test_any_number_of_crops_and_any_array():
    model = model_for()
    for crops in (1, 2, 15, 33):
        x, raw, valid = videos(4, crops)
        values, _ = embed(model, x.half().numpy(), raw.numpy(), valid.numpy())
        assert values.shape == (4, 16)
        assert values.dtype == torch.float32
    empty, present = embed(model, *videos(0, 5))
    assert empty.shape == (0, 16)
    assert present.shape == (0,)


def test_a_video_alone_equals_itself_in_company():
    model, (x, raw, valid) = model_for(), videos(9)
    together, _ = embed(model, x, raw, valid)
    alone = torch.cat([embed(model, x[i : i + 1], raw[i : i + 1], valid[i : i + 1])[0] for i in range(9)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_one_embedding_a_crop_joins_it_with_its_own_set():
    model, (x, raw, valid) = model_for(), videos(5, 6, 0.8)
    values, present = embed(model, x, raw, valid, readout="joined", sets=2, per_crop=True)
    assert torch.equal(present, valid)
    members = deal_sets(valid, 2)
    geometry = derive_geometry(raw, valid)
    with torch.no_grad():
        for i in range(5):
            for s in range(2):
                mine = members[i, s].nonzero().squeeze(1)
                if not len(mine):
                    continue
                token = model(x[i, mine][None], geometry[i, mine][None])[0][0]
                for c in mine:
                    torch.testing.assert_close(values[i, c], torch.cat((x[i, c], token)), atol=1e-5, rtol=1e-5)
    assert not values[~valid].any()


@given(seed=st.integers(0, 1000), sets=st.integers(1, 5), share=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_dealt_sets_are_disjoint_whole_and_even(seed, sets, share):
    valid = torch.rand(4, 7, generator=torch.Generator().manual_seed(seed)) < share
    members = deal_sets(valid, sets)
    assert torch.equal(members.sum(1), valid.long())
    sizes = members.sum(-1)
    assert (sizes.amax(1) - sizes.amin(1) <= 1).all()


def test_whitening_makes_its_rows_white_and_is_independent_of_blocks():
    g = torch.Generator().manual_seed(0)
    mixing = torch.randn(5, 5, generator=g)
    x = torch.randn(400, 5, generator=g) @ mixing + 3
    fitted = fit_whitening([x], shrinkage=0.0)
    white = fitted.apply(x).double()
    torch.testing.assert_close(white.mean(0), torch.zeros(5).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(5).double(), atol=1e-3, rtol=0)
    again = fit_whitening(x.split(33), shrinkage=0.0)
    torch.testing.assert_close(again.matrix, fitted.matrix, atol=1e-4, rtol=1e-3)


def test_directions_without_variance_are_dropped_and_one_row_is_too_few():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    doubled = torch.cat((x, x), dim=1)
    assert fit_whitening([doubled]).output_dim == 4
    with pytest.raises(NoDataError, match="at least 2 embeddings"):
        fit_whitening([x[:1]])


def test_whitened_readout_applies_it_to_the_normalised_join():
    model, (x, raw, valid) = model_for(), videos(30, share=1.0)
    joined, _ = embed(model, x, raw, valid, readout="joined_normalised")
    fitted = fit_whitening([joined])
    values, _ = embed(model, x, raw, valid, readout="whitened", whitening=fitted)
    torch.testing.assert_close(values, fitted.apply(joined), atol=1e-5, rtol=1e-5)


def test_wrong_input_is_answered_with_words():
    model, (x, raw, valid) = model_for(), videos()
    with pytest.raises(InvalidInputError, match="expected a readout"):
        embed(model, x, raw, valid, readout="median")
    with pytest.raises(InvalidInputError, match="sets >= 1"):
        embed(model, x, raw, valid, sets=0)
    with pytest.raises(InvalidInputError, match="fit it with fit_whitening"):
        embed(model, x, raw, valid, readout="whitened")
    with pytest.raises(InvalidInputError, match="found readout 'cls' with one"):
        embed(model, x, raw, valid, whitening=Whitening(torch.zeros(1), torch.eye(1)))
    with pytest.raises(ShapeMismatchError, match=r"expected features \(videos, crops >= 1, 8\)"):
        embed(model, x[..., :5], raw, valid)
    with pytest.raises(ShapeMismatchError):
        embed(model, x, raw[:, :3], valid)


def test_embedding_does_not_train_or_drop_out():
    model, (x, raw, valid) = model_for(dropout=0.5), videos()
    model.train()
    first, _ = embed(model, x, raw, valid)
    second, _ = embed(model, x, raw, valid)
    assert torch.equal(first, second)
    assert not first.requires_grad
    np.testing.assert_array_equal(first.numpy(), second.numpy())
