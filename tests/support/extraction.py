"""A small data folder, a tiny exported network and a recipe over both: what tests of extraction run on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from extract import plan_catalog, plan_extract, run_catalog, run_extract
from pipeline import FeatureStore
from pipeline.events import Event, ignore
from pipeline.recipe import Recipe, parse_recipe
from pipeline.reports import StageReport
from pipeline.settings import Settings
from tests.support.videos import numbered_frames, write_video

NUM_FRAMES, SIZE_PX, DIM = 4, 16, 12
DEFAULT_CROPS: Mapping[str, Any] = {
    "random3": {
        "policy": "random", "num_crops": 3, "num_frames": 4, "stride": 2, "size_px": 16, "short_side_px": [18, 30],
    },
    "grid": {
        "policy": "grid", "temporal": 2, "spatial": 2, "num_frames": 4, "stride": 2, "size_px": 16, "short_side_px": 20,
        "cover_tail": True,
    },
}  # fmt: skip


@cache
def tiny_program(folder: Path) -> tuple[Path, str]:
    """Export a tiny 3D network, (B, 3, 4, 16, 16) -> (B, 12), and return its path and sha256."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(3, DIM, (2, 5, 5), stride=(1, 3, 3)), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()
    )
    example = (torch.randn(2, 3, NUM_FRAMES, SIZE_PX, SIZE_PX),)
    program = torch.export.export(network.eval(), example, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    path = folder / "tiny.pt2"
    torch.export.save(program, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def make_videos(folder: Path, lengths: Sequence[int], *, prefix: str = "v", height: int = 40, width: int = 64) -> Path:
    """Write numbered videos of the given lengths in frames, ``v000.mp4`` onwards."""
    for k, length in enumerate(lengths):
        write_video(folder / f"{prefix}{k:03d}.mp4", numbered_frames(length, height=height, width=width, seed=k))
    return folder


def tiny_recipe(
    program: tuple[Path, str],
    *,
    crops: Mapping[str, Any] | None = None,
    shard_rows: int = 4,
    backbones: Mapping[str, Any] | None = None,
    dataset: Mapping[str, Any] | None = None,
    **backbone: Any,
) -> Recipe:
    """Return a recipe over all mp4 files of the data folder with the tiny network, named `tiny`."""
    path, sha256 = program
    spec = {
        "kind": "exported",
        "weights": {"path": str(path), "sha256": sha256},
        "num_frames": NUM_FRAMES,
        "size_px": SIZE_PX,
        "dtype": "float32",
        **backbone,
    }
    return parse_recipe(
        {
            "name": "tiny",
            "dataset": {"name": "set", "videos": "*.mp4", "shard_rows": shard_rows, **(dataset or {})},
            "crops": dict(crops or DEFAULT_CROPS),
            "backbones": dict(backbones) if backbones else {"tiny": spec},
        }
    )


def catalogue(recipe: Recipe, store: FeatureStore, settings: Settings) -> None:
    """Run the stage before extraction."""
    run_catalog(plan_catalog(recipe, store, settings), store, settings)


def extract_all(
    recipe: Recipe,
    url: Path | str,
    settings: Settings,
    on_event: Callable[[Event], None] = ignore,
    **options: Any,
) -> tuple[FeatureStore, StageReport]:
    """Catalogue and extract into a store, new or old."""
    store = FeatureStore.open_or_create(str(url))
    catalogue(recipe, store, settings)
    plan = plan_extract(recipe, store, settings, **options)
    return store, run_extract(plan, store, settings, on_event)


def read_everything(store: FeatureStore, recipe: Recipe) -> dict[str, dict[str, np.ndarray]]:
    """Return values, valid, geometry and statuses of every target, by label."""
    dataset = store.dataset(recipe.dataset.name)
    found = {}
    for target in recipe.targets():
        block = dataset.select().features(target.crops, target.feature_set)
        status = dataset.status(target.crops, target.feature_set)
        found[target.label] = {
            "values": np.array(block.values),
            "valid": np.array(block.valid),
            "geometry": np.array(block.geometry),
            "status": np.array(status["status"].to_pylist()),
            "error": np.array(status["error"].to_pylist()),
        }
    return found


def assert_same_features(
    a: Mapping[str, Mapping[str, np.ndarray]], b: Mapping[str, Mapping[str, np.ndarray]], *, atol: float = 1e-5
) -> None:
    """Geometry, masks and statuses identical, values equal to float tolerance."""
    assert a.keys() == b.keys()
    for label in a:
        for name in ("valid", "geometry", "status"):
            np.testing.assert_array_equal(a[label][name], b[label][name], err_msg=f"{label} {name}")
        np.testing.assert_allclose(a[label]["values"], b[label]["values"], atol=atol, rtol=1e-4, err_msg=label)
