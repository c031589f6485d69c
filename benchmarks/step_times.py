"""A training step of every system beside one of SCALE: networks, objective, backward pass and optimiser, no reading.

python -m benchmarks.step_times
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))

import numpy as np
import torch
from _table import write_results
from systems import SYSTEMS

import aggregate

NUM_VIDEOS, NUM_CROPS, CHANNELS = 256, 16, 512
ROUNDS, EPOCHS = 3, 8
OPTIONS: dict[str, Any] = {
    "epochs": EPOCHS, "batch_size": NUM_VIDEOS, "set_size": 8, "device": "cpu", "normalise": "none",
    "model": {"dim": 128, "num_heads": 4, "head_hidden_dim": 512, "target_hidden_dim": 256},
}  # fmt: skip


def seconds_a_step(options: dict[str, Any], data: tuple[np.ndarray, ...]) -> float:
    """Return processor seconds a step, the building of the networks included."""
    features, geometry, second = data
    own = {key: value for key, value in options.items() if key != "model"}
    model = {**OPTIONS["model"], **options.get("model", {})}
    started = time.process_time()
    aggregate.train(features, geometry, more_features=[second], **{**OPTIONS, **own, "model": model})
    return (time.process_time() - started) / EPOCHS


def main() -> None:
    """Run the command."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    shape = (NUM_VIDEOS, NUM_CROPS)
    start = rng.uniform(0, 8, shape)
    columns = (start, start + 2, *(np.full(shape, v) for v in (0, 0, 112, 112, 0)), np.full(shape, 4.0), start * 30)
    geometry = np.stack(columns, -1).astype(np.float32)
    data = (
        rng.standard_normal((*shape, CHANNELS)).astype(np.float32), geometry,
        rng.standard_normal((*shape, CHANNELS)).astype(np.float32),
    )  # fmt: skip
    systems = {name: options for name, options in SYSTEMS.items() if "normalise" not in options}
    taken: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(ROUNDS):
        for name, options in systems.items():
            taken[name].append(seconds_a_step(options, data))
            print(f"round {number + 1} of {ROUNDS}, {name}: {1000 * taken[name][-1]:.1f} ms a step", flush=True)
    scale = taken["SCALE"]
    rows: list[dict[str, object]] = []
    for name, found in taken.items():
        ratios = [a / b for a, b in zip(found, scale, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        rows.append({"": name, "ms a step": round(1000 * statistics.median(found), 1), "beside SCALE": spread})
        print(rows[-1], flush=True)
    write_results("step_times", "A step of every system beside one of SCALE", rows, packages=("torch",), notes=(
        f"{NUM_VIDEOS} videos of {NUM_CROPS} crops of {CHANNELS} channels, d = 128, sets of 8, one thread; processor "
        f"time, median and range of {ROUNDS} rounds in turn. Systems of two streams train two networks.",
    ))  # fmt: skip


if __name__ == "__main__":
    main()
