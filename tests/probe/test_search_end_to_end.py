"""A clip cut out of a stored video and encoded again finds that video first: pixels to index and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.decoding.opening import open_reader
from extract.pixels.thumbnails import catalogue_thumbnails, video_thumbnails
from pipeline import FeatureStore
from pipeline.recipe import Recipe, parse_recipe
from pipeline.settings import Settings
from probe.index.stage import describe_hits, open_index, plan_index, run_index, search_index
from probe.pages.strips import render_search
from tests.support.extraction import extract_all, tiny_program, tiny_recipe
from tests.support.videos import numbered_frames, write_video

MOBILENET = "mobilenet_v2_imagenet_features_1280.pt2"


def with_index(recipe: Recipe, crops: str) -> Recipe:
    content = recipe.model_dump(mode="json", by_alias=True)
    content["indexes"] = [{"name": "default", "crops": crops}]
    return parse_recipe(content)


def cut(video: Path, target: Path, start: float, stop: float, **encoding: Any) -> Path:
    """Encode the frames between two shares of a video again, as somebody with an editor would."""
    with open_reader(video) as reader:
        first, last = int(start * reader.num_frames), int(stop * reader.num_frames)
        frames = reader.read(np.arange(first, last)).frames
    height, width = (n // 2 * 2 for n in frames.shape[1:3])
    return write_video(target, frames[:, :height, :width], **encoding)


def patterned_frames(seed: int, num_frames: int = 40) -> np.ndarray:
    """Numbered frames over a patchwork of the video's own colours, so that even a tiny network tells them apart."""
    rng = np.random.default_rng(seed)
    patches = rng.choice([20, 90, 160, 235], (1, 3)) * 0.6 + rng.integers(0, 100, (30, 3))
    patchwork = np.kron(patches.reshape(5, 6, 3), np.ones((8, 12, 1)))
    return (0.25 * numbered_frames(num_frames, height=40, width=72, seed=seed) + 0.75 * patchwork).astype(np.uint8)


def query_vector(recipe: Recipe, store: FeatureStore, folder: Path, settings: Settings) -> np.ndarray:
    """Extract the videos of a folder with the recipe, in a store of their own; pool them as the index does."""
    own = settings.model_copy(update={"data": folder})
    new, _ = extract_all(recipe, folder / "store", own)
    source = open_index(store, recipe.dataset.name).source
    ds = new.dataset(recipe.dataset.name)
    vectors, valid = source.read(ds, np.arange(ds.num_rows))
    assert valid.all()
    return vectors


def test_a_cut_of_a_made_video(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for k in range(10):
        write_video(data / f"v{k:03d}.mp4", patterned_frames(k))
    recipe = with_index(tiny_recipe(tiny_program(tmp_path)), "grid")
    settings = Settings(data=data)
    store, _ = extract_all(recipe, tmp_path / "store", settings)
    run_index(plan_index(recipe, store, settings), store, settings)
    (tmp_path / "query").mkdir()
    for k in range(10):
        cut(data / f"v{k:03d}.mp4", tmp_path / "query" / f"q{k}.mp4", 0.2, 0.8, fps=25, options={"crf": "28"})
    rows, similarities = search_index(
        store, "set", "default", query_vector(recipe, store, tmp_path / "query", settings), 3
    )
    assert rows[:, 0].tolist() == list(range(10))
    hits = describe_hits(store, "set", rows[4], similarities[4])
    page = render_search(
        "q4.mp4",
        hits,
        index=open_index(store, "set").meta,
        frames=catalogue_thumbnails(store.dataset("set").videos, settings),
        query_frames=video_thumbnails(tmp_path / "query" / "q4.mp4"),
    )
    assert page.count("data:image/jpeg") == 3 + 3
    assert "v004.mp4" in page


@pytest.mark.shared_data
def test_cuts_of_real_videos(shared_data: Path, tmp_path: Path) -> None:
    clips = sorted((shared_data / "ucf101_2class").rglob("*.avi"))
    assert len(clips) >= 20
    folder = Path(clips[0]).parent if len({c.parent for c in clips}) == 1 else shared_data / "ucf101_2class"
    recipe = parse_recipe(
        {
            "name": "cuts",
            "dataset": {"name": "ucf", "videos": ["**/*.avi", "**/*.mp4"]},
            "crops": {"grid3x1": {"policy": "grid", "temporal": 3, "spatial": 1, "num_frames": 4, "stride": 4,
                                  "short_side_px": 256, "size_px": 224}},
            "backbones": {"mobilenet_v2": {"kind": "exported", "input": "frame",
                                           "weights": {"path": str(shared_data / "weights" / MOBILENET), "sha256":
                                           "44835424a00907735219e91d44a251361f50682afe429c019be12f0bf8e72f9b"},
                                           "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}},
            "indexes": [{"name": "default", "crops": "grid3x1"}],
        }
    )  # fmt: skip
    settings = Settings(data=folder)
    store, _ = extract_all(recipe, tmp_path / "store", settings)
    run_index(plan_index(recipe, store, settings), store, settings)
    (tmp_path / "query").mkdir()
    chosen = clips[::4]
    for i, clip in enumerate(chosen):
        cut(clip, tmp_path / "query" / f"q{i}.mp4", 0.3, 0.8, fps=25, options={"crf": "30"})
    vectors = query_vector(recipe, store, tmp_path / "query", settings)
    rows, _ = search_index(store, "ucf", "default", vectors, 3)
    ids = store.dataset("ucf").videos["video_id"].to_pylist()
    assert [Path(ids[row]).name for row in rows[:, 0]] == [clip.name for clip in chosen]
