"""A training step of every system beside one of SCALE: networks, objective, backward pass and optimiser, no reading.

python -m benchmarks.step_times --minutes 4      # again for what is left: each line of the results is one measurement
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))

import numpy as np
import torch
from _table import RESULTS, commit, write_results
from systems import SYSTEMS, write_between_markers

import aggregate

NUM_VIDEOS, NUM_CROPS, CHANNELS = 256, 16, 512
ROUNDS, EPOCHS = 3, 8
RECORDS = RESULTS / "step_times.jsonl"
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    deadline = time.monotonic() + 60 * parser.parse_args().minutes
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
    taken: dict[str, dict[int, float]] = {name: {} for name in systems}
    for line in RECORDS.read_text().splitlines() if RECORDS.is_file() else ():
        record = json.loads(line)
        taken[record["system"]][record["round"]] = record["processor_s"]
    seconds_a_step(systems["SCALE"], data)  # what a process does once is nobody's step
    for number in range(ROUNDS):
        for name, options in systems.items():
            if number in taken[name]:
                continue
            if time.monotonic() > deadline:
                return
            taken[name][number] = seconds_a_step(options, data)
            record = {"system": name, "round": number, "processor_s": round(taken[name][number], 5), "commit": commit()}
            with RECORDS.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(record, flush=True)
    report(taken)


def report(taken: dict[str, dict[int, float]]) -> None:
    """Write the table once every round is there."""
    rows: list[dict[str, object]] = []
    for name, found in taken.items():
        ratios = [found[number] / taken["SCALE"][number] for number in range(ROUNDS)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        rows.append({"": name, "ms a step": round(1000 * statistics.median(found.values())), "beside SCALE": spread})
    write_between_markers("systems-measured.md", "step_times", rows)
    write_results("step_times", "A step of every system beside one of SCALE", rows, packages=("torch",), notes=(
        f"{NUM_VIDEOS} videos of {NUM_CROPS} crops of {CHANNELS} channels, d = 128, sets of 8, one thread; processor "
        f"time, median and range of {ROUNDS} rounds in turn. Systems of two streams train two networks.",
    ))  # fmt: skip


if __name__ == "__main__":
    main()
