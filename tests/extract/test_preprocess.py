"""Pixels: cut, resized, flipped, coloured and normalised as their slow twins do it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from extract.pixels.colour import ColourDraw, augment_colours, draw_colours
from extract.pixels.preprocess import _slice, cut_crop, normalise
from extract.pixels.streams import apply_stream
from pipeline.compute.frame_uploader import FrameUploader
from pipeline.compute.seeds import seeded
from pipeline.recipe import CropPolicy

RNG = np.random.default_rng(0)
FRAMES = torch.from_numpy(RNG.integers(0, 256, (6, 40, 60, 3), dtype=np.uint8))


def geometry(top: int, left: int, bottom: int, right: int, flip: bool = False) -> np.ndarray:
    return np.array([0, 1, top, left, bottom, right, flip, 1, 0], np.float32)


def test_a_box_of_the_wanted_size_is_copied_exactly_and_flipped():
    box = geometry(3, 5, 19, 21)
    cut = cut_crop(FRAMES, np.array([4, 1, 1]), box, 16)
    np.testing.assert_array_equal(cut.numpy(), FRAMES[[4, 1, 1], 3:19, 5:21].numpy())
    flipped = cut_crop(FRAMES, np.array([4, 1, 1]), geometry(3, 5, 19, 21, flip=True), 16)
    np.testing.assert_array_equal(flipped.numpy(), cut.numpy()[:, :, ::-1])
    assert flipped.is_contiguous()


@pytest.mark.parametrize("box", [(0, 0, 40, 60), (2, 3, 35, 37), (10, 10, 14, 15), (0, 0, 1, 1)])
def test_resizing_is_antialiased_bilinear(box):
    cut = cut_crop(FRAMES, np.array([0, 2]), geometry(*box), 16)
    exact = torch.nn.functional.interpolate(
        FRAMES[[0, 2], box[0] : box[2], box[1] : box[3]].permute(0, 3, 1, 2).double(),
        (16, 16),
        mode="bilinear",
        antialias=True,
    )
    assert cut.shape == (2, 16, 16, 3)
    assert (cut.permute(0, 3, 1, 2).double() - exact).abs().max() <= 1.0


@pytest.mark.parametrize("picks", [[3], [1, 2, 3], [0, 2, 4], [0, 1, 4], [2, 1, 0], [1, 1, 2]], ids=str)
def test_frames_are_taken_without_a_vector_of_indices_as_with_one(picks):
    np.testing.assert_array_equal(_slice(FRAMES, np.array(picks)), FRAMES[picks])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_normalise_and_its_strides(dtype):
    clips = torch.stack([cut_crop(FRAMES, np.arange(2), geometry(0, 0, 20, 20), 20)]).to(dtype)
    before = clips.clone()
    out = normalise(clips, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    expected = (clips.double() / 255 - torch.tensor([0.4, 0.5, 0.6])) / torch.tensor([0.1, 0.2, 0.3])
    torch.testing.assert_close(out.double(), expected.permute(0, 4, 1, 2, 3), atol=1e-5, rtol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    other = normalise(clips, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3), channels_last=False)
    assert other.is_contiguous()
    assert torch.equal(out, other)
    one_by_one = clips.float() * (1 / (255 * torch.tensor([0.1, 0.2, 0.3])))  # as it was computed before, to the bit
    one_by_one += -torch.tensor([0.4, 0.5, 0.6]) / torch.tensor([0.1, 0.2, 0.3])
    assert torch.equal(out, one_by_one.permute(0, 4, 1, 2, 3))
    assert torch.equal(clips, before)


def test_temporal_gradient_is_that_of_ltg():
    now, before = FRAMES[None, 1:4], FRAMES[None, 0:3]
    found = apply_stream("tgrad", now, before)
    np.testing.assert_allclose(found.numpy(), (before.numpy().astype(float) - now.numpy() + 255) / 2)
    assert apply_stream("rgb", now, None) is now
    assert (apply_stream("tgrad", now, now) == 127.5).all()


def test_foreground_is_the_half_that_moves():
    rng = np.random.default_rng(0)
    scene = torch.from_numpy(rng.integers(0, 256, (1, 1, 64, 64, 3), np.uint8)).repeat(2, 3, 1, 1, 1)
    before, now = scene.clone(), scene.clone()
    now[0, :, :, :28] = 255 - now[0, :, :, :28]  # the left changes in every frame; nothing in the second crop
    found = apply_stream("foreground", now, before)
    assert found.dtype == torch.uint8
    assert (found[0, :, :, :26] == now[0, :, :, :26]).all()
    assert (found[0, :, :, 36:] == 127).all()
    assert (found[1] == 127).all()
    slow = np.abs(now[0].numpy().astype(int) - before[0].numpy()).sum(3).mean(0)
    mean = [[slow[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].mean() for x in range(64)] for y in range(64)]
    moves = np.array(mean) > np.sort(np.ravel(mean))[64 * 64 // 2 - 1]
    np.testing.assert_array_equal((found[0] != 127).any(3).any(0).numpy() & ~moves, False)
    np.testing.assert_array_equal(found[0, 0][torch.from_numpy(moves)], now[0, 0][torch.from_numpy(moves)])


def test_flow_takes_what_augmentation_leaves():
    pytest.importorskip("cv2")
    now, before = (torch.randint(0, 256, (1, 2, 32, 32, 3), dtype=torch.uint8, generator=seeded(k)) for k in (0, 1))
    assert torch.equal(apply_stream("flow", now.float() + 0.3, before.float()), apply_stream("flow", now, before))


def test_turned_flow_goes_the_other_way_as_fast():
    pytest.importorskip("cv2")
    now, before = (torch.randint(0, 256, (1, 2, 32, 32, 3), dtype=torch.uint8, generator=seeded(k)) for k in (0, 1))
    flow, turned = (apply_stream(stream, now, before) for stream in ("flow", "flow_turned"))
    assert flow.shape == turned.shape
    torch.testing.assert_close(turned[..., :2] - 127.5, 127.5 - flow[..., :2])
    assert torch.equal(turned[..., 2], flow[..., 2])


def test_flow_finds_a_shift():
    pytest.importorskip("cv2")
    noise = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    before, now = torch.from_numpy(noise)[None, None], torch.from_numpy(np.roll(noise, 4, axis=1).copy())[None, None]
    flow = apply_stream("flow", now, before)[0, 0, 32:96, 32:96].float()
    assert abs(float(flow[..., 0].median()) - (4 + 20) * 255 / 40) < 8
    assert abs(float(flow[..., 1].median()) - 127.5) < 8


def test_colour_is_one_draw_a_crop_and_the_same_in_every_frame():
    policy = TypeAdapter(CropPolicy).validate_python({"policy": "random", "num_crops": 400, "colour": {}})
    draws = draw_colours(policy, "v", 400)
    assert draws == draw_colours(policy, "v", 400)
    assert draws != draw_colours(policy, "w", 400)
    assert np.mean([bool(d.order) for d in draws]) == pytest.approx(0.8, abs=0.06)
    assert np.mean([d.is_grey for d in draws]) == pytest.approx(0.2, abs=0.06)
    assert np.mean([d.blur_sigma > 0 for d in draws]) == pytest.approx(0.5, abs=0.08)
    still = FRAMES[0:1].permute(0, 3, 1, 2).expand(3, -1, -1, -1)
    for draw in draws[:20]:
        out = augment_colours(still, draw)
        assert out.dtype == torch.uint8
        assert (out == out[0]).all()


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (ColourDraw((), (1, 1, 1, 0), False, 0.0), lambda x: x),
        (ColourDraw((0,), (0.5, 1, 1, 0), False, 0.0), lambda x: x * 0.5),
        (ColourDraw((3,), (1, 1, 1, 1 / 3), False, 0.0), lambda x: x[:, [2, 0, 1]]),
        (ColourDraw((3,), (1, 1, 1, 0.0), False, 0.0), lambda x: x),
        (ColourDraw((2,), (1, 1, 0.0, 0), False, 0.0), lambda x: _grey(x)),
        (ColourDraw((), (1, 1, 1, 0), True, 0.0), lambda x: _grey(x)),
    ],
)
def test_colour_operations(draw, expected):
    clip = FRAMES[:2].permute(0, 3, 1, 2)
    found = augment_colours(clip, draw).float()
    assert (found - expected(clip.float())).abs().max() <= 1.0


def _grey(x: torch.Tensor) -> torch.Tensor:
    return (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True).expand_as(x)


def test_upload_on_a_cpu_copies_nothing():
    frames = FRAMES.numpy()
    assert FrameUploader(torch.device("cpu")).upload(frames).data_ptr() == frames.ctypes.data


@pytest.mark.gpu
def test_a_gpu_sees_the_same_pixels():
    uploader = FrameUploader(torch.device("cuda"))
    for _ in range(5):
        found = uploader.upload(FRAMES.numpy())
        box = geometry(2, 3, 35, 37, flip=True)
        difference = (
            cut_crop(found, np.array([0, 2]), box, 16).cpu().int() - cut_crop(FRAMES, np.array([0, 2]), box, 16).int()
        )
        assert difference.abs().max() <= 1
