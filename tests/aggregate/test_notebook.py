"""`import aggregate` in a notebook: arrays of any make are taken, every mistake is answered with words."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import aggregate
from aggregate import ScaleModel
from aggregate.data.arrays import check_finite
from pipeline.errors import InvalidInputError, NoDataError, ShapeMismatchError, TrainingError
from tests.support.set_batches import TINY, raw_geometry

SMALL = TINY.model_dump()
OPTIONS = {"epochs": 2, "batch_size": 8, "set_size": 3, "model": SMALL, "device": "cpu"}


def videos(num: int = 16, crops: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(num, crops, 8, generator=g), raw_geometry(num, crops, g)


def model() -> ScaleModel:
    torch.manual_seed(0)
    return ScaleModel(8, TINY)


def swapped(x):
    """The same numbers, laid out with crops outermost."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.tolist(), lambda x: x.double(), lambda x: x.numpy(), lambda x: x.numpy().astype(">f4"), swapped,
        lambda x: x.flip(0).numpy()[::-1], lambda x: read_only(x.numpy()), lambda x: x.clone().requires_grad_(),
    ],
)  # fmt: skip
def test_the_same_numbers_in_any_array_give_the_same_model_and_embeddings(change):
    x, where = videos()
    expected = aggregate.train(x, where, **OPTIONS)
    found = aggregate.train(change(x), change(where), **OPTIONS)
    assert [r["loss"] for r in found.history] == [r["loss"] for r in expected.history]
    values = [aggregate.embed(expected.model, *v)[0] for v in ((x, where), (change(x), change(where)))]
    assert torch.equal(*values)
    assert torch.equal(
        aggregate.derive_geometry(where.numpy(), np.ones((16, 6), bool)),
        aggregate.derive_geometry(where, torch.ones(16, 6)),
    )


def test_rougher_numbers_are_taken_too():
    x, where = videos()
    for rough in (x.half(), x.bfloat16(), (10 * x).int()):
        values, valid = aggregate.embed(aggregate.train(rough, where, **OPTIONS).model, rough, where)
        assert valid.all()
        assert torch.isfinite(values).all()


@pytest.mark.parametrize(
    ("features", "geometry", "message"),
    [
        (lambda x: x[0], lambda g: g[0], r"found \(6, 8\) and \(6, 9\); a single video goes in as features\[None\]"),
        (lambda x: x, lambda g: g[..., :7], r"found .* \(16, 6, 7\); the columns of raw geometry are start_s, end_s"),
        (lambda x: x[:, :3], lambda g: g, r"found \(16, 3, 8\) and \(16, 6, 9\)"),
        (lambda x: x[:, :0], lambda g: g[:, :0], r"crops >= 1.*found \(16, 0, 8\)"),
        (lambda x: x[..., :0], lambda g: g, r"found \(16, 6, 0\)"),
    ],
)
def test_shapes_that_do_not_fit(features, geometry, message):
    x, where = videos()
    for verb in (lambda *v: aggregate.train(*v, **OPTIONS), lambda *v: aggregate.embed(model(), *v)):
        with pytest.raises(ShapeMismatchError, match=message):
            verb(features(x), geometry(where))


def test_another_width_than_the_models():
    x, where = videos()
    with pytest.raises(ShapeMismatchError, match=r"\(videos, crops >= 1, 8\).*found \(16, 6, 5\)"):
        aggregate.embed(model(), x[..., :5], where)


@pytest.mark.parametrize(
    ("array", "found"),
    [(None, "NoneType"), ([[1.0], [1.0, 2.0]], "list"), (np.array([["a"]]), "an array of <U1"), ({}, "dict")],
)
def test_what_is_no_array_of_numbers(array, found):
    with pytest.raises(InvalidInputError, match=f"expected features as a tensor or array of numbers, found {found}"):
        aggregate.train(array, videos()[1], **OPTIONS)


def test_complex_numbers_are_refused_and_not_cut():
    x, where = videos()
    with pytest.raises(InvalidInputError, match="expected features to be real"):
        aggregate.embed(model(), x.to(torch.complex64), where)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["features", "geometry"])
def test_values_that_are_not_finite_are_named_before_anything_is_computed(which, value):
    x, where = videos()
    broken = x if which == "features" else where
    broken[[3, 4, 5, 9, 12, 14, 15], 2, 0] = value
    message = re.escape("in videos 3, 4, 5, 9, 12 and 2 more; mark those crops in `valid` as False")
    with pytest.raises(InvalidInputError, match=message):
        aggregate.train(x, where, **OPTIONS)
    with pytest.raises(InvalidInputError, match=message):
        aggregate.embed(model(), x, where)
    tensors = [torch.as_tensor(one) for one in (x, where)]
    for videos_at_once in (1, 5, 16):
        with pytest.raises(InvalidInputError, match=message):
            check_finite(*tensors, torch.ones(16, 6, dtype=torch.bool), videos_at_once=videos_at_once)
    valid = torch.ones(16, 6, dtype=torch.bool)
    valid[:, 2] = False
    trained = aggregate.train(x, where, valid, **OPTIONS)
    assert torch.isfinite(aggregate.embed(trained.model, x, where, valid)[0]).all()


def test_masks_and_ids_are_what_they_should_be():
    x, where = videos()
    for mask, message in (
        (torch.full((16,), 6), r"expected valid \(16, 6\), one truth value a crop, found \(16,\)"),
        (torch.full((16, 6), 3), r"expected valid to hold truth values, found other torch.int64 numbers"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            aggregate.train(x, where, mask, **OPTIONS)
        with pytest.raises(InvalidInputError, match=message):
            aggregate.embed(model(), x, where, mask)
    for ids, message in (
        (torch.arange(5), r"expected group_ids \(16,\), found \(5,\)"),
        (torch.arange(16) / 3, r"expected group_ids to be integers, found torch.float32; np.unique"),
        ([str(i) for i in range(16)], r"expected group_ids as a tensor or array of numbers, found list"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            aggregate.train(x, where, group_ids=ids, **OPTIONS)
    for sizes in (torch.ones(5, 2), torch.ones(16)):
        with pytest.raises(ShapeMismatchError, match=r"expected frame_size_px \(16, 2\), height and width"):
            aggregate.train(x, where, frame_size_px=sizes, **OPTIONS)
        with pytest.raises(ShapeMismatchError, match=r"expected frame_size_px \(16, 2\)"):
            aggregate.embed(model(), x, where, frame_size_px=sizes)
    whole = aggregate.train(x, where, torch.ones(16, 6), **OPTIONS)  # numbers that mean truth are taken
    assert whole.history == aggregate.train(x, where, **OPTIONS).history


def test_embedding_nothing_is_empty_and_never_zeros_in_disguise():
    x, where = videos()
    for size in (0, -1):
        with pytest.raises(InvalidInputError, match=f"batch_size >= 1.*{size}$"):
            aggregate.embed(model(), x, where, batch_size=size)
    with pytest.raises(InvalidInputError, match=r"expected a ScaleModel, found TrainResult; train\(\) returns one as"):
        aggregate.embed(aggregate.train(x, where, **OPTIONS), x, where)


def test_a_training_that_scores_nothing_says_so():
    x, where = videos()
    lonely = torch.zeros(16, 6, dtype=torch.bool)
    lonely[:, 1] = True
    for arguments, objective in (
        ((x[:, :1], where[:, :1]), {"kind": "set"}),
        ((x, where, lonely), {"kind": "ntxent"}),
        ((x, where), {"kind": "mcm", "mask_ratio": 0.0}),
    ):
        with pytest.raises(
            TrainingError, match=f"a loss of zero in all of the first 4 steps of objective {objective['kind']}"
        ):
            aggregate.train(*arguments, **OPTIONS, objective=objective)


def test_one_crop_a_video_one_video_a_batch_one_video_in_all():
    x, where = videos()
    result = aggregate.train(x[:, :1], where[:, :1], **{**OPTIONS, "epochs": 6})
    values, valid = aggregate.embed(result.model, x[:1, :1], where[:1, :1])
    assert values.shape == (1, 16)
    assert valid.all()
    with pytest.raises(InvalidInputError, match="batch_size: Input should be greater than or equal to 2"):
        aggregate.train(x, where, **{**OPTIONS, "batch_size": 1})
    with pytest.raises(NoDataError, match="at least 2 videos"):
        aggregate.train(x[:1], where[:1], **OPTIONS)


def test_models_and_whitenings_from_the_wrong_things():
    for arguments in ((0,), ("8",), (8, SMALL)):
        with pytest.raises(InvalidInputError, match=r"ModelSpec\(...\)\) with ModelSpec from pipeline.recipe"):
            ScaleModel(*arguments)
    for blocks, message in (
        ([torch.ones(3, 4, 5)], r"embeddings \(n, E\), found \(3, 4, 5\)"),
        (torch.ones(3, 4), r"embeddings \(n, E\), found \(4,\)"),
        ([torch.ones(3, 4), torch.ones(3, 5)], r"embeddings \(n, 4\), found \(3, 5\)"),
        ([torch.full((3, 4), torch.nan)], "found NaN or infinity"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            aggregate.fit_whitening(blocks)


@pytest.mark.gpu
def test_features_that_lie_on_a_gpu_already():
    x, where = videos()
    on_gpu = aggregate.train(x.cuda(), where.cuda(), torch.ones(16, 6, device="cuda"), **{**OPTIONS, "device": "cuda"})
    values, valid = aggregate.embed(on_gpu.model, x.cuda(), where.cuda())
    assert valid.all()
    assert torch.isfinite(values).all()
