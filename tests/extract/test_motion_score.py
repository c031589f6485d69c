"""The motion score of a crop, from real files: what moves scores what its frames differ by, what stands still 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from extract.backbones import load_backbone
from extract.pixels.streams import apply_stream
from pipeline.errors import RecipeError
from pipeline.recipe.backbones.motion import MotionBackbone
from pipeline.settings import Settings
from tests.support.extraction import extract_all, tiny_recipe
from tests.support.videos import write_video

CROPS = {"c": {"policy": "grid", "temporal": 3, "spatial": 1, "num_frames": 4, "stride": 1, "size_px": 16,
               "short_side_px": 16, "cover_tail": True}}  # fmt: skip


def test_it_is_the_mean_absolute_difference_of_neighbouring_frames() -> None:
    rng = np.random.default_rng(0)
    before, now = (torch.from_numpy(rng.integers(0, 256, (2, 4, 16, 16, 3), np.uint8)) for _ in range(2))
    backbone = load_backbone(MotionBackbone(kind="motion"), Settings(device="cpu"))
    seen = (apply_stream("tgrad", now, before) / 255 - 0.5) / 0.5
    with torch.inference_mode():
        found = backbone.network(seen.permute(0, 4, 1, 2, 3))
    expected = [
        np.mean([abs(int(a) - int(b)) / 255 for a, b in zip(x.ravel(), y.ravel(), strict=True)])
        for x, y in zip(now.numpy(), before.numpy(), strict=True)
    ]
    assert found.shape == (2, 1)
    assert found[:, 0].numpy() == pytest.approx(expected, abs=1e-5)


def test_crops_of_real_files_are_scored_and_stored(tmp_path: Path) -> None:
    still = np.full((24, 32, 48, 3), 90, np.uint8)
    blinks = still.copy()
    blinks[16::2] = 200  # the last third goes from dark to light and back, frame by frame
    for name, frames in (("still", still), ("blinks", blinks)):
        write_video(tmp_path / "data" / f"{name}.mp4", frames)
    recipe = tiny_recipe(("", ""), crops=CROPS, backbones={"moves": {"kind": "motion"}})
    store, report = extract_all(recipe, tmp_path / "store", Settings(data=tmp_path / "data", device="cpu"))
    assert report.did["shards_done"] == 1
    ds = store.dataset("set")
    scores = ds.select().features("c", "moves-tgrad").values[..., 0]
    by_name = dict(zip(ds.videos["video_id"].to_pylist(), scores.tolist(), strict=True))
    assert max(by_name["still.mp4"]) < 0.01
    first, _, last = by_name["blinks.mp4"]
    assert first < 0.01
    assert last == pytest.approx(110 / 255, abs=0.05)


def test_it_takes_no_scale_of_its_own() -> None:
    with pytest.raises(RecipeError, match="no mean for a motion score"):
        tiny_recipe(("", ""), backbones={"moves": {"kind": "motion", "mean": [0, 0, 0]}})
