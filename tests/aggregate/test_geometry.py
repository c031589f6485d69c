from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregate import MODEL_COLUMNS, derive_geometry
from aggregate.data.geometry import visible_columns
from pipeline.errors import ShapeMismatchError
from pipeline.storage.schema import GEOMETRY_COLUMNS
from tests.support.set_batches import raw_geometry


def column(name: str) -> int:
    return GEOMETRY_COLUMNS.index(name)


def slow_per_video(raw: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """One video, crop by crop: first start 0, last end 1, and so for both sides of its boxes."""
    out = np.zeros((len(raw), 7))
    kept = [r for r, v in zip(raw, valid, strict=True) if v]
    for i, (crop, ok) in enumerate(zip(raw, valid, strict=True)):
        if not ok:
            continue
        out[i, 0] = 1.0 if crop[column("flip")] else -1.0
        for low, high, at in (
            ("top_px", "bottom_px", (1, 3)),
            ("left_px", "right_px", (2, 4)),
            ("start_s", "end_s", (5, 6)),
        ):
            first = min(r[column(low)] for r in kept)
            last = max(r[column(high)] for r in kept)
            if last > first:
                out[i, at[0]] = (crop[column(low)] - first) / (last - first)
                out[i, at[1]] = (crop[column(high)] - first) / (last - first)
    return out


@given(seed=st.integers(0, 10_000), crops=st.integers(1, 7), share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_per_video_equals_its_twin(seed, crops, share):
    g = torch.Generator().manual_seed(seed)
    raw = raw_geometry(3, crops, g)
    valid = torch.rand(3, crops, generator=g) < share
    found = derive_geometry(raw, valid)
    assert found.dtype == torch.float32
    for i in range(3):
        expected = slow_per_video(raw[i].double().numpy(), valid[i].numpy())
        np.testing.assert_allclose(found[i].numpy(), expected, atol=1e-5)


def test_columns_stand_in_the_order_of_the_released_code():
    assert MODEL_COLUMNS == ("flip", "h0", "w0", "h1", "w1", "t0", "t1")
    raw = torch.zeros(1, 2, 9)
    for name, values in {
        "start_s": (10, 14), "end_s": (12, 20), "top_px": (0, 50), "bottom_px": (100, 200), "left_px": (0, 300),
        "right_px": (100, 400), "flip": (0, 1),
    }.items():  # fmt: skip
        raw[0, :, column(name)] = torch.tensor(values, dtype=torch.float32)
    expected = [[-1, 0, 0, 0.5, 0.25, 0, 0.2], [1, 0.25, 0.75, 1, 1, 0.4, 1]]
    torch.testing.assert_close(derive_geometry(raw, torch.ones(1, 2, dtype=torch.bool))[0], torch.tensor(expected))


def test_absolute_keeps_seconds_and_fractions_of_the_frame():
    raw = raw_geometry(2, 3, torch.Generator().manual_seed(0))
    valid = torch.ones(2, 3, dtype=torch.bool)
    size = torch.tensor([[240.0, 320.0], [0.0, 0.0]])
    found = derive_geometry(raw, valid, frame="absolute", frame_size_px=size)
    torch.testing.assert_close(found[..., 5], raw[..., column("start_s")])
    torch.testing.assert_close(found[..., 6], raw[..., column("end_s")])
    torch.testing.assert_close(found[0, :, 1], raw[0, :, column("top_px")] / 240)
    torch.testing.assert_close(found[0, :, 4], raw[0, :, column("right_px")] / 320)
    assert float(found[1, :, 3].max()) == pytest.approx(1.0)  # unknown size: what the crops show of it
    without = derive_geometry(raw, valid, frame="absolute")
    torch.testing.assert_close(without[1], found[1])


def test_shift_and_scale_of_time_do_not_matter_per_video():
    raw = raw_geometry(2, 5, torch.Generator().manual_seed(1))
    valid = torch.ones(2, 5, dtype=torch.bool)
    moved = raw.clone()
    moved[..., :2] = moved[..., :2] * 7 + 3000
    torch.testing.assert_close(derive_geometry(moved, valid), derive_geometry(raw, valid), atol=1e-4, rtol=1e-4)


def test_garbage_in_invalid_crops_and_empty_videos_stays_out():
    raw = raw_geometry(2, 3, torch.Generator().manual_seed(2))
    valid = torch.tensor([[True, False, True], [False, False, False]])
    expected = derive_geometry(raw, valid)
    raw[~valid] = torch.nan
    torch.testing.assert_close(derive_geometry(raw, valid), expected)
    assert not expected[1].any()
    assert not expected[0, 1].any()


def test_one_instant_has_no_extent():
    raw = torch.zeros(1, 2, 9)
    assert torch.isfinite(derive_geometry(raw, torch.ones(1, 2, dtype=torch.bool))).all()


def test_shapes_are_checked():
    with pytest.raises(ShapeMismatchError, match="expected raw geometry"):
        derive_geometry(torch.zeros(2, 3, 7), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ShapeMismatchError):
        derive_geometry(torch.zeros(2, 3, 9), torch.ones(2, 4, dtype=torch.bool))
    assert visible_columns("time").tolist() == [False] * 5 + [True] * 2
