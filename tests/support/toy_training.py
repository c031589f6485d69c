"""A toy recipe and store for the stages `train` and `embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aggregate.stage import plan_embed, plan_train, run_embed, run_train
from pipeline import FeatureStore
from pipeline.events import OnEvent, ignore
from pipeline.recipe import Recipe, parse_recipe
from pipeline.reports import StageReport
from pipeline.settings import Settings
from tests.support.stores import make_store

HERE = Settings(device="cpu")
SMALL = {"dim": 16, "num_heads": 2, "head_hidden_dim": 12, "target_hidden_dim": 10, "projection_dim": 6}


def recipe(embeds: Any = ({"crops": "train16"},), **train: Any) -> Recipe:
    """Return a recipe over :func:`toy`; `train` changes its training."""
    options = {"crops": "train16", "backbone": "fake", "epochs": 4, "batch_size": 8, "set_size": 2, "model": SMALL}
    return parse_recipe(
        {
            "name": "toy",
            "dataset": {"name": "toy", "videos": "*.mp4", "shard_rows": 8},
            "crops": {"train16": {"policy": "random", "num_crops": 4}},
            "backbones": {"fake": {"kind": "pytorchvideo", "model": "x3d_xs", "weights": {"random": 0}}},
            "train": {**options, **train},
            "embed": list(embeds),
        }
    )


def toy(place: Path | str, **options: Any) -> FeatureStore:
    """Make 24 videos of 4 crops in 3 shards, the first 16 to train on, below a folder or at an address."""
    options = {"splits": ["train"] * 16 + ["test"] * 8} | options
    url = f"{place}/store" if isinstance(place, str) else place / "store"
    return make_store(url, num_videos=24, num_crops=4, dim=8, **options)


def run_all(
    store: FeatureStore, chosen: Recipe, on_event: OnEvent = ignore, settings: Settings = HERE
) -> tuple[StageReport, StageReport]:
    """Plan and run both stages."""
    trained = run_train(plan_train(chosen, store, settings), store, settings, on_event)
    return trained, run_embed(plan_embed(chosen, store, settings), store, settings, on_event)
