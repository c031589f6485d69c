"""One optimiser step of SCALE against the plain formulation, and what feeding it costs.

    python -m benchmarks.train [--device auto] [--videos B] [--steps 9] [--compile auto]

B videos, 2 sets of V = 8 crops, D = 768, both formulations with the same weights, input
and mask, one after the other in every round. Plain: both heads on every token, the full
logit matrix, torch's AdamW as it comes, float32. The data side (mode `device`: the
selection lies on the device, a batch is index arrays) is a share of a step.

cpu: B = 128, ours in float32 and in bfloat16. cuda: B = 512, ours in bfloat16, eager and
compiled. The code is the same for both; `auto` runs cpu, and cuda where there is one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from _table import write_results
from torch import Tensor
from torch.nn import functional

from aggregate import ScaleModel
from aggregate.data.batch import SetBatch, draw_mask, make_set_batch
from aggregate.data.loader import CropData, ResidentSource
from aggregate.data.sets import disjoint_sets
from aggregate.objectives import ObjectiveInput, build_objective
from aggregate.training.compiling import compiled_encoder
from aggregate.training.encode import encode_sets
from aggregate.training.parameters import parameter_groups
from pipeline.compute.seeds import keyed, seeded
from pipeline.recipe import ModelSpec, ScaleObjective

WIDTH, SET_SIZE, TEMPERATURE = 768, 8, 0.2
CPU_VIDEOS, GPU_VIDEOS = 128, 512


def plain_loss(model: ScaleModel, batch: SetBatch) -> Tensor:
    """Compute everything for every token, then pick: the released code's formulation."""
    num_videos, num_sets, _ = batch.shape
    cls, tokens = model(batch.features.flatten(0, 1), batch.geometry.flatten(0, 1), None, batch.masked.flatten(0, 1))
    z = functional.normalize(model.set_head(cls), dim=-1).view(num_videos, num_sets, -1)
    logits = z[:, 0] @ z[:, 1].mT / TEMPERATURE
    set_loss = -(logits.log_softmax(1).diag() + logits.log_softmax(0).diag()).mean() / 2
    targets = functional.normalize(model.dense_target_head(batch.features), dim=-1).flatten(0, 2)
    predictions = functional.normalize(model.dense_pred_head(tokens), dim=-1).flatten(0, 1)
    every = -(predictions @ targets.mT / TEMPERATURE).log_softmax(1).diag()
    return (set_loss + torch.masked_select(every, batch.masked.flatten()).mean()) / 2


class Side:
    """A model with its optimiser, one of the two formulations."""

    def __init__(
        self, spec: ModelSpec, device: torch.device, *, ours: bool, bf16: bool = False, compiled: bool = False
    ):
        torch.manual_seed(0)
        self.model = ScaleModel(WIDTH, spec).to(device)
        self.device, self.ours, self.bf16 = device, ours, bf16
        options = {"fused": True} if ours else {}
        self.optimiser = torch.optim.AdamW(parameter_groups(self.model.named_parameters(), 1e-4), lr=3e-4, **options)
        self.objective = build_objective(ScaleObjective(temperature=TEMPERATURE))
        self.encoder: Callable = compiled_encoder(self.model) if compiled else self.model

    def loss(self, batch: SetBatch) -> Tensor:
        """Score one batch."""
        if not self.ours:
            return plain_loss(self.model, batch)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            encoded = encode_sets(self.model, batch, tokens=self.objective.needs_tokens, encoder=self.encoder)
            return self.objective(ObjectiveInput({"main": encoded})).loss

    def step(self, batch: SetBatch) -> float:
        """Do one optimiser step and return its seconds."""
        _wait(self.device)
        begin = time.perf_counter()
        self.optimiser.zero_grad(set_to_none=True)
        self.loss(batch).backward()
        self.optimiser.step()
        _wait(self.device)
        return time.perf_counter() - begin


def make_source(num_videos: int, device: torch.device) -> ResidentSource:
    """Made-up float16 features of twice as many videos as a batch holds, resident on the device."""
    g = torch.Generator().manual_seed(0)
    features = torch.randn(2 * num_videos, 2 * SET_SIZE, WIDTH, generator=g).half()
    data = CropData.build(features, torch.rand(2 * num_videos, 2 * SET_SIZE, 9, generator=g))
    return ResidentSource(data, frame="per_video", device=device, seed=0)


def next_batch(source: ResidentSource, num_videos: int, number: int, device: torch.device) -> SetBatch:
    """Make a batch as the trainer does before every step."""
    crops = next(iter(source.batches(number, num_videos)))
    g = seeded(keyed(0, number))
    sets = disjoint_sets(SET_SIZE)(crops.valid, crops.raw_geometry, g)
    return make_set_batch(crops, sets, draw_mask(sets.valid, 0.25, g), device)


def compare(
    num_videos: int, device: torch.device, steps: int, *, bf16: bool = False, compiled: bool = False
) -> dict[str, object]:
    """Time both formulations round by round; the ratio is the median of the rounds' ratios."""
    quiet = ModelSpec(dropout=0.0)
    source = make_source(num_videos, device)
    batch = next_batch(source, num_videos, 0, device)
    losses = [float(Side(quiet, device, ours=ours).loss(batch).detach()) for ours in (True, False)]
    sides = {
        "ours": Side(ModelSpec(), device, ours=True, bf16=bf16, compiled=compiled),
        "plain": Side(ModelSpec(), device, ours=False),
    }
    seconds: dict[str, list[float]] = {"ours": [], "plain": [], "data": []}
    for number in range(steps + 3):
        _wait(device)
        begin = time.perf_counter()
        batch = next_batch(source, num_videos, number, device)
        _wait(device)
        taken = {"data": time.perf_counter() - begin}
        # Who goes first alternates: the second finds warmer caches.
        for name in ("ours", "plain") if number % 2 else ("plain", "ours"):
            taken[name] = sides[name].step(batch)
        if number >= 3:
            for name, value in taken.items():
                seconds[name].append(value)
    ratios = sorted(a / b for a, b in zip(seconds["ours"], seconds["plain"], strict=True))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "device": str(device),
        "B": num_videos,
        "ours in": ("bfloat16" if bf16 else "float32") + (", compiled" if compiled else ""),
        "ours": f"{1e3 * median['ours']:.3g} ms",
        "plain": f"{1e3 * median['plain']:.3g} ms",
        "ours / plain": f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})",
        "data side / step": f"{100 * median['data'] / (median['data'] + median['ours']):.2g} %",
        "difference of losses": f"{abs(losses[0] - losses[1]):.1e}",
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rows_for(device: torch.device, args: argparse.Namespace) -> list[dict[str, object]]:
    """Measure one device."""
    compiled = args.compile == "on" or (args.compile == "auto" and device.type == "cuda" and has_triton())
    if device.type == "cuda":
        ways = [{"bf16": True, "compiled": False}, {"bf16": True, "compiled": True}]
        num_videos, steps = args.videos or GPU_VIDEOS, 5 * args.steps
    else:
        ways = [{}, {"bf16": True}, {"compiled": True}]
        num_videos, steps = args.videos or CPU_VIDEOS, args.steps
    return [compare(num_videos, device, steps, **way) for way in ways if compiled or not way.get("compiled")]


def has_triton() -> bool:
    """Whether torch can compile for this GPU."""
    return find_spec("triton") is not None and torch.cuda.get_device_capability()[0] >= 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--videos", type=int, help="B; 128 on a CPU, 512 on a GPU")
    parser.add_argument(
        "--steps", type=int, default=9, help="timed rounds, after three to warm up; five times as many on a GPU"
    )
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto", help="auto: on a GPU with Triton")
    args = parser.parse_args()
    torch.set_num_threads(2)
    names = [args.device] if args.device != "auto" else ["cpu"] + ["cuda"] * torch.cuda.is_available()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("expected a CUDA device, found none; --device cpu measures the same code on the processor")
    notes = [
        "one optimiser step, 2 sets of 8 crops, D = 768; dropout 0.1 while timing, 0 where float32 losses are compared",
        "plain: heads on every token, full logit matrix, AdamW as it comes, float32",
        "data side: mode `device`, the selection resident, sets and mask drawn, crops gathered",
        "targets: cpu, float32, 2 cores <= 0.80; cuda, bfloat16, B = 512 <= 0.35 and data side <= 5 %"
        + ("" if "cuda" in names else " (no CUDA device here: not measured)"),
    ]
    rows = [row for name in names for row in rows_for(torch.device(name), args)]
    if "cuda" in names:
        notes.append(f"{torch.cuda.get_device_name()}, and two threads of the processor named above")
    page = "train" if "cpu" in names else "train_cuda"
    write_results(page, "One optimiser step of SCALE", rows, packages=["torch"], notes=notes)


if __name__ == "__main__":
    main()
