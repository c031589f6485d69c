"""The lines of the ablation tables: the main comparison, then one factor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SMALL = {"dim": 48, "num_heads": 3, "head_hidden_dim": 128, "target_hidden_dim": 128, "projection_dim": 64}
GENERATED = {"epochs": 60, "batch_size": 64, "learning_rate": 1.5e-3, "set_size": 6, "model": SMALL}
LIGHT = {"head_hidden_dim": 512, "target_hidden_dim": 512}
"""Narrower projection heads than the released ones: a third of the time on one core."""
JHMDB = {"epochs": 60, "learning_rate": 3e-4, "set_size": 8, "model": LIGHT}
"""The batch is half of the split's training videos (72 in split 1): two steps an epoch in every split."""
SCALE = "SCALE (both)"
POOLING = "mean of crops"


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    table: str
    label: str
    kind: str = "train"
    """train, mean, random (untrained), deepsets (untrained) or deepsets_labels (trained on the labels)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Changes to the base options of TrainSpec, one level deep merged."""
    data: dict[str, Any] = field(default_factory=dict)
    """Changes to LatentActions."""
    num_runs: int = 5
    """Generated data: worlds. Real videos: three splits times the training seeds."""


def rows_of_tables(*, generated: bool) -> Iterator[Row]:
    """Yield every line; on real videos the main comparison twice as often."""
    most, some = (5, 5) if generated else (6, 3)
    for label, kind, objective in (
        (POOLING, "mean", None),
        ("SCALE, untrained", "random", None),
        ("deep sets, untrained", "deepsets", None),
        ("deep sets, trained on the labels (linear column: itself)", "deepsets_labels", None),
        ("NT-Xent, no mask (SimCLR control)", "train", {"kind": "ntxent"}),
        ("set contrast alone", "train", {"kind": "set"}),
        ("masked crops alone", "train", {"kind": "mcm"}),
        (SCALE, "train", {}),
    ):
        options = {} if objective is None else {"objective": objective}
        yield Row("main", label, kind, options, num_runs=most)
    for ratio in (0.0, 0.15, 0.5, 0.75):
        yield Row("mask ratio", f"{ratio:.2f}", options={"objective": {"mask_ratio": ratio}}, num_runs=some)
    for frame in ("per_video", "absolute"):
        for parts in ("none", "time", "box", "all"):
            if (frame, parts) != ("per_video", "all") and not (frame == "absolute" and parts == "none"):
                model = {"geometry": parts, "geometry_frame": frame}
                yield Row("geometry", f"{parts}, {frame}", options={"model": model}, num_runs=some)
    for size in (2, 4):
        yield Row("set size", f"{size}", options={"set_size": size}, num_runs=some)
    switches = [("all", "nearest"), ("other_videos", "identity"), ("other_videos", "nearest")]
    if not generated:  # made-up videos have no siblings
        switches.append(("no_siblings", "identity"))
    for negatives, positives in switches:
        objective = {"negatives": negatives, "positives": positives}
        yield Row(
            "negatives and positives", f"{negatives}, {positives}", options={"objective": objective}, num_runs=some
        )
    yield from _longer(generated=generated)
    if generated:
        for background in (0.0, 0.3, 1.0):
            for kind in ("set", "mcm", "scale"):
                data, options = {"background": background}, {"objective": {"kind": kind}}
                yield Row("background", f"{background}, {kind}", options=options, data=data, num_runs=some)


def _longer(*, generated: bool) -> Iterator[Row]:
    """Whether a row is low for want of steps; on real videos also whether it is for want of width."""
    epochs = 180 if generated else 240
    for kind in ("set", "mcm", "scale") if generated else ("set", "scale"):
        options = {"epochs": epochs, "objective": {"kind": kind}}
        yield Row("longer training", f"{epochs} epochs, {kind}", options=options, num_runs=5 if generated else 3)
    if not generated:
        wide = {"head_hidden_dim": 4096, "target_hidden_dim": 2048}
        yield Row("head width", "as released: 4096, 2048", options={"model": wide}, num_runs=3)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return base options with changes, dictionaries merged one level deep."""
    out = dict(base)
    for key, value in changes.items():
        out[key] = {**out.get(key, {}), **value} if isinstance(value, dict) else value
    return out
