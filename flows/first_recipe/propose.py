"""From what a folder is like to a recipe that suits it, with the reasons beside the lines."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from flows.first_recipe.look import FolderLook, WeightsFound

SHORT_S = 3.0
"""Below this median length single frames over the whole video keep the order that a few crops would lose."""
ZOO = ("slowfast_r50", "slow_r50", "c2d_r50", "i3d_r50", "x3d_xs", "x3d_s", "x3d_m", "x3d_l", "r2plus1d_r50",
       "csn_r101", "mvit_base_32x3", "mvit_base_16x4", "mvit_base_16")  # fmt: skip
_IMAGENET = "mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]"


@dataclass(frozen=True)
class Proposal:
    """A recipe as text, and what somebody should know before running it."""

    text: str
    missing: tuple[str, ...]
    """What the folder does not have, and what would add it."""
    num_crops: int
    """Crops of a video, all sets together."""
    num_frames: int
    """Frames of a video that are decoded and seen, all crop sets together."""


def propose(look: FolderLook, name: str) -> Proposal:
    """Write a recipe for a folder.

    Parameters
    ----------
    look : FolderLook
    name : str
        Of the recipe and the dataset.

    Returns
    -------
    Proposal
        Its text is a whole, valid recipe.
    """
    missing: list[str] = []
    backbone, key, takes_frames = _backbone(look, missing)
    is_short = look.median_s < SHORT_S and takes_frames
    rows = max(1, min(256, len(look.videos) // 4 or 1))
    lines = [
        f"# Written by `scale init` from a look at {look.folder.name}: {len(look.videos)} videos, median "
        f"{look.median_s:.1f} s. Every key: docs/recipe.md.",
        f"name: {name}",
        *_dataset(look, name, rows, missing),
        *_crops(is_short, takes_frames),
        "backbones:",
        *backbone,
        *_learning(key, is_short, len(look.videos)),
    ]
    crops = (32, 32) if is_short else (16 + 15, (16 + 15) * (4 if takes_frames else 16))
    return Proposal("\n".join(lines) + "\n", tuple(missing), *crops)


def _dataset(look: FolderLook, name: str, shard_rows: int, missing: list[str]) -> list[str]:
    globs = [f"**/*{suffix}" for suffix in look.suffixes]
    lines = ["dataset:", f"  name: {name}", f"  videos: {json.dumps(globs[0] if len(globs) == 1 else globs)}"]
    has_classes = len(look.classes) > 1 and max(look.classes.values()) > 1
    if has_classes:
        lines.append(f"  labels: {{from: folder}}            # {len(look.classes)} classes by folder")
    else:
        missing.append(
            "labels: no class folders; put videos into one folder a class, or add a table with the columns path and "
            "label: labels: {from: csv, path: labels.csv}"
        )
    if look.has_side_folders:
        lines.append("  splits: {from: folder}            # the folders train, val, test")
    elif has_classes:
        lines.append("  splits: {from: random, test_fraction: 0.3, seed: 0}   # by group: no source on both sides")
    if look.group_pattern is not None:
        lines.append(
            f"  group: {{from: regex, pattern: {json.dumps(look.group_pattern)}}}   # {look.num_groups} sources"
        )
    elif has_classes and not look.has_side_folders:
        missing.append(
            "groups: names do not tell which videos were cut from one source; if some were, give a group "
            "(group: {from: regex, pattern: ...}), or test accuracy is too good"
        )
    lines.append(f"  shard_rows: {shard_rows}")
    if look.lists:
        missing.append(f"tables in the folder that were not read: {', '.join(look.lists[:5])}")
    return lines


def _crops(is_short: bool, takes_frames: bool) -> list[str]:
    if is_short:
        return [
            "crops:",
            "  # Short clips and a network of single frames: every eighth of a second, so that order in time is kept.",
            "  frames: {policy: frames, rate_fps: 8, temporal: 32, short_side_px: 256, size_px: 224}",
        ]
    frames = 4 if takes_frames else 16
    return [
        "crops:",
        f"  train16: {{policy: random, num_crops: 16, num_frames: {frames}, stride: 4, short_side_px: [256, 320], "
        "size_px: 224, flip: true}",
        f"  grid5x3: {{policy: grid, temporal: 5, spatial: 3, num_frames: {frames}, stride: 4, short_side_px: 256, "
        "size_px: 224, cover_tail: true}",
    ]


def _backbone(look: FolderLook, missing: list[str]) -> tuple[list[str], str, bool]:
    """Return the section's lines, the backbone's name, and whether it sees single frames."""
    for found in look.weights:
        if found.input_shape is not None:
            key = _key(found.path)
            is_frame = len(found.input_shape) == 4
            kind = "frame" if is_frame else "crop"
            return (
                [f"  {key}:", "    kind: exported", f"    input: {kind}", f"    weights: {_weights(found)}",
                 *(f"    {part}" for part in _split(_IMAGENET))],
                key, is_frame,
            )  # fmt: skip
    for found in look.weights:
        model = next((m for m in ZOO if m in found.path.name.lower().replace("-", "_")), None)
        if model is not None and found.path.suffix != ".pt2":
            return ([f"  {model}: {{kind: pytorchvideo, model: {model}, weights: {_weights(found)}}}"], model, False)
    missing.append(
        "weights: none found, so the network below is untrained and only shows that things run; put a .pt2 program or "
        "a checkpoint of pytorchvideo's zoo into a folder and give it with --weights (docs/first-run.md)"
    )
    return (["  x3d_s: {kind: pytorchvideo, model: x3d_s, weights: {random: 0}}"], "x3d_s", False)


def _learning(key: str, is_short: bool, num_videos: int) -> list[str]:
    if is_short:
        return [
            "probes:",
            "  - {kind: knn, crops: frames, readouts: [mean, moments], k: [1, 5, 10, 20]}",
            "  - {kind: linear, crops: frames, readouts: [mean, moments]}",
            "indexes:",
            "  - {name: default, crops: frames, readout: moments}",
        ]
    batch = max(2, min(512, num_videos // 3))
    return [
        "models:",
        f"  scale: {{method: scale, features: [train16/{key}], batch_size: {batch}, epochs: 60}}",
        "embed:",
        "  - {crops: grid5x3, readout: cls}",
        "probes:",
        "  - {kind: knn, crops: grid5x3, readouts: [mean, moments, cls, joined], k: [1, 5, 10, 20]}",
        "  - {kind: linear, crops: grid5x3, readouts: [mean, moments, cls, joined]}",
        "indexes:",
        "  - {name: default, crops: grid5x3, readout: mean}",
    ]


def _weights(found: WeightsFound) -> str:
    return f"{{path: {json.dumps(str(found.path.resolve()))}, sha256: {found.sha256}}}"


def _key(path: Path) -> str:
    short = re.sub(r"[^A-Za-z0-9]+", "_", path.stem).strip("_")
    return "_".join(short.split("_")[:2]).lower() or "mine"


def _split(text: str) -> list[str]:
    first, _, second = text.partition(", std")
    return [first, f"std{second}"]
