"""The objectives' interface takes SCALE's neighbours as it is: ordered tokens, two streams, a teacher, parameters."""

from __future__ import annotations

import torch
from torch import nn

from aggregate.data.geometry import END_S, START_S
from aggregate.data.loader import CropData, ResidentSource
from aggregate.data.sets import disjoint_sets, global_local_sets
from aggregate.objectives import (
    Objective,
    ObjectiveInput,
    ObjectiveResult,
    WeightedSum,
    build_objective,
    info_nce,
    unit,
)
from aggregate.training.encode import encode_sets
from aggregate.training.trainer import Trainer
from pipeline.recipe import ScaleObjective, TrainSpec
from tests.support.set_batches import CPU, TINY, crop_batch, set_batch


class SequenceGauss(Objective):
    """CARL: tokens at near times should match; the prior is a Gaussian of their distance in seconds."""

    needs_tokens = "all"

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        encoded = inputs.main
        raw = encoded.batch.raw_geometry
        mid_s = (raw[..., START_S] + raw[..., END_S]) / 2
        prior = torch.softmax(-((mid_s[:, 0, :, None] - mid_s[:, 1, None, :]) ** 2) / 2, -1)
        z = unit(encoded.model.dense_pred_head(encoded.tokens))
        log_q = torch.log_softmax(z[:, 0] @ z[:, 1].mT / 0.1, -1)
        loss = nn.functional.kl_div(log_q, prior, reduction="batchmean")
        return ObjectiveResult(loss, {"sequence_loss": loss.detach()})


class CrossStream(Objective):
    """CoCLR, ViCC: the set token of one stream finds that of the other."""

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        a, b = (inputs.online[name] for name in ("rgb", "tgrad"))
        za, zb = (unit(e.model.set_head(e.set_tokens[:, 0])) for e in (a, b))
        loss, accuracy = info_nce(za, zb, torch.arange(len(za)), temperature=0.1)
        return ObjectiveResult(loss, {"cross_loss": loss.detach(), "cross_accuracy": accuracy})


class SetDino(Objective):
    """SVT: student on all sets, teacher on the global ones; prototypes are its own parameters."""

    needs_teacher = True

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Linear(16, 12, bias=False)

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        student = torch.log_softmax(self.prototypes(inputs.main.set_tokens) / 0.1, -1)
        with torch.no_grad():
            teacher = torch.softmax(self.prototypes(inputs.teacher["main"].set_tokens[:, :2]) / 0.04, -1)
        pairs = [-(teacher[:, t] * student[:, s]).sum(-1).mean() for t in (0, 1) for s in range(4) if s != t]
        loss = torch.stack(pairs).mean() * (1 - inputs.progress)
        return ObjectiveResult(loss, {"dino_loss": loss.detach()})


def make_trainer(objective, splitter, **options) -> Trainer:
    crops = crop_batch(12, 8, seed=0)
    data = CropData.build(crops.pool_features, crops.raw_geometry, crops.valid)
    options = {"crops": "c", "backbone": "b", "epochs": 3, "batch_size": 6, "set_size": 4, "model": TINY} | options
    source = ResidentSource(data, frame="per_video", device=CPU, seed=0)
    return Trainer(source, TrainSpec(**options), device=CPU, objective=objective, splitter=splitter)


def test_ordered_tokens_train_beside_scale():
    both = WeightedSum([(1.0, build_objective(ScaleObjective())), (1.0, SequenceGauss())])
    assert both.needs_tokens == "all"
    result = make_trainer(both, disjoint_sets(4)).fit()
    assert {"set_loss", "mcm_loss", "sequence_loss"} <= set(result.history[-1])


def test_two_streams_reach_an_objective():
    batch = set_batch(5, 6)
    from aggregate import ScaleModel

    online = {name: encode_sets(ScaleModel(8, TINY), batch, tokens="none") for name in ("rgb", "tgrad")}
    result = CrossStream()(ObjectiveInput(online))
    result.loss.backward()
    assert all(e.model.set_head[0].weight.grad is not None for e in online.values())


def test_a_teacher_follows_and_prototypes_learn():
    trainer = make_trainer(SetDino(), global_local_sets(2, 2, 4, 2))
    before = trainer.learner.objective.prototypes.weight.detach().clone()
    result = trainer.fit()
    assert trainer.learner.average is not None
    assert not torch.equal(trainer.learner.objective.prototypes.weight, before)
    assert result.model is trainer.learner.average.model
    assert result.history[-1]["dino_loss"] < result.history[0]["dino_loss"]
