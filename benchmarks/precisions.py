"""Features of the same real crops: a GPU in three precisions, against a CPU's float32.

python -m benchmarks.precisions --data ../shared/data [--videos 6] [--device cuda]

The whole stage runs each time: decoded, cut, scaled and run where the features are made. A GPU scales pixels in
float32 and a CPU in fixed point; they agree to one grey level, which is part of the differences.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks._table import write_results
from benchmarks.extract import link_videos, recipe, run_pipeline, said_of

MODELS = ("x3d_xs", "slow_r50")
PRECISIONS = ("float32", "float16", "bfloat16")
NUM_CROPS = 4


def features(model: str, device: str, precision: str, folder: Path, scratch: Path) -> np.ndarray:
    """Extract into a store of its own and return (crops, channels) float64."""
    spec = recipe(["*.avi"], model, NUM_CROPS, precision)
    store = run_pipeline(folder, scratch / f"{model}-{device}-{precision}", spec, device, warm=False)[2]
    block = store.dataset("bench").select().features("train16", model)
    if not block.valid.all():
        raise RuntimeError(f"expected every crop of {model} on {device}, found {int(block.valid.sum())}")
    return np.asarray(block.values, np.float64).reshape(-1, block.values.shape[-1])


def differences(found: np.ndarray, expected: np.ndarray) -> dict[str, object]:
    """Compare crop by crop: |a - b| / |b|, and |a - b| over the typical distance of a crop from the mean of all."""
    off, norms = np.linalg.norm(found - expected, axis=1), np.linalg.norm(expected, axis=1)
    spread = np.linalg.norm(expected - expected.mean(0), axis=1).mean()
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / norms
    return {
        "relative, median": f"{np.median(off / norms):.1e}",
        "largest": f"{(off / norms).max():.1e}",
        "smallest cosine": f"{cosines.min():.7f}",
        "of a crop's distance from the mean, largest": f"{(off / spread).max():.1e}",
    }


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of real videos")
    parser.add_argument("--videos", type=int, default=6)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as place:
        scratch, folder = Path(place), Path(place) / "videos"
        link_videos(options.data.resolve(), folder, options.videos)
        for model in MODELS:
            expected = features(model, "cpu", "float32", folder, scratch)
            for precision in PRECISIONS:
                found = features(model, options.device, precision, folder, scratch)
                rows.append({"network": model, "precision": precision, **differences(found, expected)})
    notes = [
        f"{options.videos} clips ({said_of(options.data)}), {NUM_CROPS} crops each, random weights, features stored in "
        f"float32; {options.device} against this machine's cpu in float32",
        "float32 on a GPU convolves in TF32, as torch does unless told otherwise",
    ]
    if options.device.startswith("cuda"):
        import torch

        notes.append(torch.cuda.get_device_name(options.device))
    write_results("precisions", "Features of a GPU against those of a CPU", rows, packages=["torch", "av"], notes=notes)


if __name__ == "__main__":
    main()
