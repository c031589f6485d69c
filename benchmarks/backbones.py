"""Crops a second of every backbone at its native input: as built, tuned, and compiled.

    python benchmarks/backbones.py [--compile] [--openvino] [--short] [--only NAME ...] [--threads 1]

"As built" is the network as its library gives it, eager, on contiguous
float32 crops. "Tuned" is what ``load_backbone`` returns. OpenVINO is measured
in as many streams as it has threads, one here. Weights are random
except for the exported program, which is the MobileNetV2 of
SCALE_SHARED_DATA (left out where that folder is absent).
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

# benchmarks/extract.py would stand in for the package `extract` if this folder came first
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from pydantic import TypeAdapter
from torch import Tensor

from benchmarks._table import write_results
from extract.backbones import load_backbone
from extract.backbones.compiling import compiled
from extract.backbones.layers import MeanOverFrames
from extract.backbones.openvino_network import converted
from extract.backbones.tuning import relative_difference
from extract.backbones.zoo import ZOO
from pipeline.fingerprint import hash_file
from pipeline.recipe import BackboneSpec, ExportedBackbone
from pipeline.settings import Settings

SHARED = Path(os.environ.get("SCALE_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
MOBILENET = SHARED / "weights" / "mobilenet_v2_imagenet_features_1280.pt2"
SHORT = ("mobilenet_v2 (exported)", "x3d_xs")
COMPILED = ("mobilenet_v2 (exported)", "x3d_xs", "x3d_s", "slow_r50", "r2plus1d_r50", "mvit_base_16x4", "svt")


def cases() -> dict[str, tuple[dict, tuple[int, int, int]]]:
    """Specs by name, with crops a batch, frames and pixels."""
    found: dict[str, tuple[dict, tuple[int, int, int]]] = {}
    if MOBILENET.is_file():
        weights = {"path": str(MOBILENET), "sha256": hash_file(MOBILENET)}
        found["mobilenet_v2 (exported)"] = ({"kind": "exported", "input": "frame", "weights": weights}, (8, 4, 224))
    for name, model in ZOO.items():
        crops = 8 if name in ("x3d_xs", "mvit_base_16") else 2
        spec = {"kind": "pytorchvideo", "model": name, "weights": {"random": 0}}
        found[name] = (spec, (crops, model.native_frames, model.native_size_px))
    found["svt"] = ({"kind": "svt", "weights": {"random": 0}}, (2, 8, 224))
    found["videomae_base"] = ({"kind": "videomae", "weights": {"random": 0}}, (2, 16, 224))
    return found


def seconds(runs: dict[str, Callable[[Tensor], Tensor]], clips: Tensor, rounds: int) -> dict[str, float]:
    """Best seconds of each, in turns."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run(clips)
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def as_built(network: torch.nn.Module) -> Callable[[Tensor], Tensor]:
    if not isinstance(network, MeanOverFrames):
        return network

    def run(clips: Tensor) -> Tensor:
        images = clips.transpose(1, 2).flatten(0, 1).contiguous()
        return network.image_network(images).unflatten(0, (clips.shape[0], -1)).mean(1)

    return run


def measure(
    name: str, content: dict, size: tuple[int, int, int], *, with_compile: bool, with_openvino: bool
) -> dict[str, object]:
    spec = TypeAdapter(BackboneSpec).validate_python(content)
    backbone = load_backbone(spec, Settings())
    crops, frames, pixels = size
    clips = torch.randn(crops, 3, frames, pixels, pixels, generator=torch.Generator().manual_seed(0))
    built = backbone.build()
    runs: dict[str, Callable[[Tensor], Tensor]] = {"built": as_built(built), "tuned": backbone}
    compile_s = 0.0
    with torch.inference_mode():
        expected = runs["built"](clips)
        difference = relative_difference(backbone(clips), expected)
        if with_compile and name in COMPILED:
            started = time.perf_counter()
            run = compiled(backbone.network, fewest=crops)
            difference = max(difference, relative_difference(run(clips), expected))
            compile_s, runs["compiled"] = time.perf_counter() - started, run
        convert_s = 0.0
        if with_openvino:
            started = time.perf_counter()
            run = converted(backbone.build(), clips[:2])
            difference = max(difference, relative_difference(run(clips), expected))
            convert_s, runs["openvino"] = time.perf_counter() - started, run
        best = seconds(runs, clips, rounds=6 if crops == 8 else 2)
    rate = {key: crops / value for key, value in best.items()}
    return {
        "backbone": name,
        "crop": f"{frames} x {pixels} x {pixels}",
        "dim": backbone.dim,
        "as built /s": f"{rate['built']:.2f}",
        "tuned /s": f"{rate['tuned']:.2f}",
        "tuned x": f"{rate['tuned'] / rate['built']:.2f}",
        "compiled x tuned": f"{rate['compiled'] / rate['tuned']:.2f}" if "compiled" in rate else "-",
        "compile s": f"{compile_s:.0f}" if compile_s else "-",
        "OpenVINO x tuned": f"{rate['openvino'] / rate['tuned']:.2f}" if "openvino" in rate else "-",
        "convert s": f"{convert_s:.0f}" if convert_s else "-",
        "relative difference": f"{difference:.0e}",
        "trained": "yes" if isinstance(spec, ExportedBackbone) else "random",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compile", action="store_true", help="also compile some (a minute or more)")
    parser.add_argument("--openvino", action="store_true", help="also by OpenVINO, on one thread")
    parser.add_argument("--only", nargs="*", help="names of backbones")
    parser.add_argument("--short", action="store_true", help="the two quickest, without compiling; writes no page")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.openvino and arguments.threads != 1:
        parser.error("expected --threads 1 with --openvino, whose one stream computes with one core")
    torch.set_num_threads(arguments.threads)
    only = SHORT if arguments.short else arguments.only
    rows = []
    for name, (spec, size) in cases().items():
        if not only or name in only:
            with_compile = arguments.compile and not arguments.short
            rows.append(measure(name, spec, size, with_compile=with_compile, with_openvino=arguments.openvino))
            print(rows[-1], flush=True)
    if only:
        return  # the page is about all of them
    write_results(
        "backbones",
        "Crops a second of each backbone, float32",
        rows,
        packages=["torch", "pytorchvideo", "transformers", "openvino"],
        notes=[
            f"{arguments.threads} threads; best of 2 to 6 rounds, the forms of one network in turns.",
            "Relative difference: largest of tuned, compiled and OpenVINO to as built, by norm.",
        ],
    )


if __name__ == "__main__":
    main()
