from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregate import ScaleModel, load_reference_state_dict
from pipeline.errors import ShapeMismatchError, WeightsError
from pipeline.recipe import ModelSpec
from tests.support.reference_scale import ReferenceScale, randomised
from tests.support.set_batches import TINY


def tiny_model(seed: int = 0, dim_in: int = 8, **changes) -> ScaleModel:
    torch.manual_seed(seed)
    model = ScaleModel(dim_in, TINY.model_copy(update=changes)).eval()
    with torch.no_grad():  # tokens start at zero; give them a value that shows
        model.set_cls_token.normal_()
        model.msk_token.normal_()
    return model


def inputs(rows: int = 4, crops: int = 5, dim: int = 8, seed: int = 1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, crops, dim, generator=g), torch.rand(rows, crops, 7, generator=g)


@pytest.mark.parametrize(("dim", "depth", "ratio"), [(32, 1, 2.0), (64, 2, 4.0), (96, 3, 2.0)])
def test_same_outputs_as_the_released_code(dim, depth, ratio):
    reference = randomised(ReferenceScale(20, dim, depth, ratio, p=24, head=48, target=40), seed=dim)
    model = load_reference_state_dict(reference.state_dict()).eval()
    assert model.spec.num_heads == dim // 32
    x, pos = torch.randn(6, 8, 20), torch.rand(6, 8, 7)
    mask = torch.rand(6, 8) < 0.25
    for hidden in (None, mask):
        expected_set, expected_tokens = reference.encode(x, pos, hidden)
        set_token, tokens = model(x, pos, None, hidden)
        torch.testing.assert_close(set_token, expected_set, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tokens, expected_tokens, atol=1e-5, rtol=1e-5)


def test_released_checkpoints_load_whole_wrapped_or_prefixed():
    reference = randomised(ReferenceScale(12, 32, p=8, head=16, target=16), seed=3)
    state = reference.state_dict()
    for form in ({"student": state, "epoch": 3}, {f"module.{k}": v for k, v in state.items()}):
        model = load_reference_state_dict(form)
        torch.testing.assert_close(model.state_dict()["norm.weight"], state["norm.weight"])


def test_a_checkpoint_of_something_else_is_refused_by_name():
    state = ReferenceScale(12, 32, p=8, head=16, target=16).state_dict()
    with pytest.raises(WeightsError, match=r"found no 'input_projection\.weight'"):
        load_reference_state_dict({"conv1.weight": torch.zeros(3)})
    with pytest.raises(WeightsError, match="expected a mapping of tensors"):
        load_reference_state_dict({"student": [1, 2]})
    short = {k: v for k, v in state.items() if k != "norm.bias"} | {"surplus": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"missing \['norm.bias'\], left over \['surplus'\]"):
        load_reference_state_dict(short)
    with pytest.raises(WeightsError, match=r"norm\.bias: expected"):
        load_reference_state_dict(state | {"norm.bias": torch.zeros(5)})


@given(seed=st.integers(0, 2**31), crops=st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_the_set_token_does_not_care_about_order(seed, crops):
    model = tiny_model()
    x, pos = inputs(3, crops, seed=seed)
    order = torch.randperm(crops, generator=torch.Generator().manual_seed(seed))
    valid = torch.rand(3, crops, generator=torch.Generator().manual_seed(seed)) < 0.8
    set_token, tokens = model(x, pos, valid)
    again, permuted = model(x[:, order], pos[:, order], valid[:, order])
    torch.testing.assert_close(again, set_token, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(permuted[valid[:, order]], tokens[:, order][valid[:, order]], atol=1e-5, rtol=1e-5)


@given(seed=st.integers(0, 2**31), crops=st.integers(1, 6), padding=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_invalid_crops_change_nothing_whatever_they_hold(seed, crops, padding):
    model = tiny_model()
    x, pos = inputs(3, crops, seed=seed)
    set_token, tokens = model(x, pos)
    garbage = torch.full((3, padding, 8), torch.nan)
    padded = torch.cat((x, garbage), 1), torch.cat((pos, torch.full((3, padding, 7), torch.inf)), 1)
    valid = torch.arange(crops + padding).expand(3, -1) < crops
    again, more = model(*padded, valid)
    torch.testing.assert_close(again, set_token, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(more[:, :crops], tokens, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_wanted_tokens_are_the_same_as_among_all(num_layers):
    model = tiny_model(num_layers=num_layers)
    x, pos = inputs(4, 5)
    valid = torch.rand(4, 5) < 0.9
    masked = torch.rand(4, 5) < 0.4
    set_token, tokens = model(x, pos, valid, masked)
    wanted = masked.flatten().nonzero().squeeze(1)
    again, some = model(x, pos, valid, masked, wanted)
    torch.testing.assert_close(again, set_token)
    torch.testing.assert_close(some, tokens.flatten(0, 1)[wanted])
    _, none = model(x, pos, valid, masked, wanted[:0])
    assert none.shape == (0, 16)


def test_a_set_without_crops_is_a_constant():
    model = tiny_model()
    x, pos = inputs(2, 3)
    valid = torch.tensor([[False] * 3, [True] * 3])
    first, _ = model(x, pos, valid)
    second, _ = model(x + 5, pos, valid)
    torch.testing.assert_close(first[0], second[0])
    assert not torch.allclose(first[1], second[1])


@pytest.mark.parametrize(
    ("parts", "seen"), [("none", []), ("time", [5, 6]), ("box", [0, 1, 2, 3, 4]), ("all", [0, 1, 2, 3, 4, 5, 6])]
)
def test_geometry_variants_see_their_columns_alone(parts, seen):
    model = tiny_model(geometry=parts)
    x, pos = inputs(2, 4)
    base, _ = model(x, pos)
    for column in range(7):
        moved = pos.clone()
        moved[..., column] += torch.linspace(0, 1, 4)
        changed = not torch.allclose(model(x, moved)[0], base, atol=1e-6)
        assert changed == (column in seen), column


def test_a_masked_crop_hides_its_feature_and_keeps_its_geometry():
    model = tiny_model()
    x, pos = inputs(1, 4)
    masked = torch.tensor([[True, False, False, False]])
    base, _ = model(x, pos, None, masked)
    other = x.clone()
    other[0, 0] += 3
    torch.testing.assert_close(model(other, pos, None, masked)[0], base)
    moved = pos.clone()
    moved[0, 0] += 1
    assert not torch.allclose(model(x, moved, None, masked)[0], base, atol=1e-5)


def test_gradients_are_right():
    torch.manual_seed(0)
    spec = ModelSpec(
        dim=8, num_heads=2, num_layers=2, head_hidden_dim=8, target_hidden_dim=8, projection_dim=8, dropout=0
    )
    model = ScaleModel(3, spec).double().eval()
    x = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    pos = torch.rand(2, 3, 7, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[True, True, False], [True, True, True]])
    masked = torch.tensor([[False, True, False], [True, False, False]])
    wanted = masked.flatten().nonzero().squeeze(1)
    assert torch.autograd.gradcheck(lambda a, b: model(a, b, valid, masked, wanted), (x, pos))


def test_what_does_not_fit_is_said():
    model = tiny_model()
    x, pos = inputs(2, 3)
    with pytest.raises(ShapeMismatchError, match=r"expected features \(sets, crops >= 1, 8\), found \(2, 3, 7\)"):
        model(x[..., :7], pos)
    with pytest.raises(ShapeMismatchError, match="from derive_geometry"):
        model(x, torch.zeros(2, 3, 9))
    with pytest.raises(ShapeMismatchError, match="expected valid"):
        model(x, pos, torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ShapeMismatchError, match="crops >= 1"):
        model(x[:, :0], pos[:, :0])
