"""The trainer against a loop written out by hand: AdamW, warm-up and cosine, accumulation, clipping, average."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from aggregate.data.loader import CropData, ResidentSource
from aggregate.objectives import ObjectiveInput
from aggregate.training.encode import encode_sets
from aggregate.training.trainer import Trainer
from pipeline.recipe import TrainSpec
from tests.support.set_batches import CPU, TINY, crop_batch

RATE, DECAY, WARM_SHARE, EPOCHS, BATCH = 3e-3, 0.1, 0.25, 4, 8
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def make_trainer(**options) -> Trainer:
    stored = crop_batch(32, 6, seed=1, share_valid=0.9)
    data = CropData.build(stored.pool_features, stored.raw_geometry, stored.valid)
    spec = TrainSpec.model_validate(
        {
            "crops": "c", "backbone": "b", "epochs": EPOCHS, "batch_size": BATCH, "set_size": 3, "learning_rate": RATE,
            "weight_decay": DECAY, "warmup_fraction": WARM_SHARE, "model": TINY.model_dump() | {"dropout": 0.0},
            **options,
        }
    )  # fmt: skip
    return Trainer(ResidentSource(data, frame="per_video", device=CPU, seed=spec.seed), spec, device=CPU)


def by_hand(run: Trainer, parts: int, clip: float | None, keep: float | None):
    """Return losses, trained parameters and their average; only batches and the loss itself come from the package."""
    model = copy.deepcopy(run.learner.model).train()
    parameters = dict(model.named_parameters())
    average = {name: p.detach().clone() for name, p in parameters.items()}
    first = {name: torch.zeros_like(p) for name, p in parameters.items()}
    second = {name: torch.zeros_like(p) for name, p in parameters.items()}
    steps_an_epoch = 32 // BATCH // parts
    total = EPOCHS * steps_an_epoch
    warm = WARM_SHARE * total
    losses, step = [], 0
    for epoch in range(EPOCHS):
        batches = list(run.source.batches(epoch, BATCH))
        for at in range(steps_an_epoch):
            gradients = {name: torch.zeros_like(p) for name, p in parameters.items()}
            loss_sum = 0.0
            for part in range(parts):
                batch = run.learner.make_batch(batches[at * parts + part], step * parts + part)
                encoded = encode_sets(model, batch, tokens="all")
                loss = run.learner.objective(ObjectiveInput({"main": encoded})).loss
                loss_sum += float(loss.detach())
                found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
                for name, gradient in zip(parameters, found, strict=True):
                    if gradient is not None:
                        gradients[name] += gradient / parts
            losses.append(loss_sum / parts)
            norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
            shrink = 1.0 if clip is None else min(1.0, clip / norm)
            if step < warm:  # the first step is one of rate 0, as in the released code
                rate = RATE * step / warm
            else:
                rate = RATE * (1 + math.cos(math.pi * (step - warm) / (total - warm))) / 2
            step += 1
            with torch.no_grad():
                for name, p in parameters.items():
                    g = gradients[name] * shrink
                    first[name] = BETA_1 * first[name] + (1 - BETA_1) * g
                    second[name] = BETA_2 * second[name] + (1 - BETA_2) * g**2
                    if p.ndim > 1 and not name.endswith("_token"):
                        p *= 1 - rate * DECAY
                    direction = (first[name] / (1 - BETA_1**step)) / (
                        (second[name] / (1 - BETA_2**step)).sqrt() + EPSILON
                    )
                    p -= rate * direction
                    if keep is not None:
                        average[name] = keep * average[name] + (1 - keep) * p
    return losses, parameters, average


def without_key_bias(name: str, value: torch.Tensor) -> torch.Tensor:
    """A bias of all keys changes no attention: its gradient is rounding alone, and AdamW makes steps of that."""
    if not name.endswith("attn.qkv.bias"):
        return value
    third = len(value) // 3
    return torch.cat((value[:third], value[2 * third :]))


@pytest.mark.parametrize(
    ("parts", "clip", "keep"), [(1, None, None), (2, None, 0.9), (4, 0.05, None), (2, 0.05, 0.5), (1, 1e9, 0.99)]
)
def test_training_equals_a_loop_written_by_hand(parts, clip, keep):
    run = make_trainer(accumulate=parts, clip_norm=clip, ema=keep)
    losses, parameters, average = by_hand(run, parts, clip, keep)
    result = run.fit()
    assert [r["loss"] for r in result.history] == pytest.approx(losses, rel=1e-4)
    pairs = [(result.online, parameters)] + ([(result.model, average)] if keep is not None else [])
    for module, expected in pairs:
        for name, value in module.named_parameters():
            torch.testing.assert_close(
                without_key_bias(name, value.detach()),
                without_key_bias(name, expected[name].detach()),
                atol=RATE / 30,
                rtol=0,
                msg=lambda text, name=name: f"{name}: {text}",
            )
