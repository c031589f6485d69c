"""A training process killed with SIGKILL at any instant leaves what the next one needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aggregate.network.saving import METRICS, WEIGHTS
from pipeline import FeatureStore
from tests.support.stores import make_store

ROOT = Path(__file__).resolve().parents[2]

TRAIN = """
import sys
import torch
torch.set_num_threads(1)
from aggregate.stage import plan_train, run_train
from pipeline import FeatureStore
from pipeline.events import Progress
from pipeline.recipe import parse_recipe
from pipeline.settings import Settings
recipe = parse_recipe({
    "name": "toy", "dataset": {"name": "toy", "videos": "*.mp4", "shard_rows": 8},
    "crops": {"train16": {"policy": "random", "num_crops": 4}},
    "backbones": {"fake": {"kind": "pytorchvideo", "model": "x3d_xs", "weights": {"random": 0}}},
    "train": {"crops": "train16", "backbone": "fake", "epochs": 15, "batch_size": 8, "set_size": 2, "rows": "all",
              "ema": 0.9, "model": {"dim": 16, "num_heads": 2, "head_hidden_dim": 12, "target_hidden_dim": 10,
                                    "projection_dim": 6}}})
store, settings = FeatureStore.open(sys.argv[1], mode="a"), Settings(device="cpu", progress_s=0, checkpoint_s=0)
def say(event):
    if isinstance(event, Progress):
        print(event.done, flush=True)
report = run_train(plan_train(recipe, store, settings), store, settings, say)
print("resumed", report.details["resumed_from"], flush=True)
"""


def start(store: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(store)], stdout=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.slow
def test_killed_again_and_again_equals_uninterrupted(tmp_path):
    for name in ("whole", "killed"):
        make_store(tmp_path / name, num_videos=24, num_crops=4, dim=8)
    whole = start(tmp_path / "whole")
    assert "resumed 0" in whole.communicate(timeout=120)[0]
    for after in (1, 5, 14, 20, 33):  # steps of 45, each followed by a checkpoint that the kill may tear
        process = start(tmp_path / "killed")
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().isdigit() and int(line) >= after:
                os.kill(process.pid, signal.SIGKILL)
                break
        assert process.wait(timeout=60) == -signal.SIGKILL
        process.stdout.close()
    last = start(tmp_path / "killed")
    resumed = int(last.communicate(timeout=120)[0].split("resumed ")[1])
    assert 30 <= resumed <= 34
    models = [FeatureStore.open(tmp_path / n).dataset("toy").artifact("models", "scale") for n in ("whole", "killed")]
    assert models[0].read(WEIGHTS) == models[1].read(WEIGHTS)
    assert models[0].read("online.safetensors") == models[1].read("online.safetensors")
    assert models[0].read(METRICS) == models[1].read(METRICS)
