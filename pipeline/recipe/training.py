"""The aggregator: model, objective, schedule, and which embeddings are written back."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.names import Name
from pipeline.recipe.base import Spec
from pipeline.recipe.objectives import ObjectiveSpec, ScaleObjective


class ModelSpec(Spec):
    """The set transformer (SCALE section 3; defaults of the authors' code)."""

    dim: int = Field(256, ge=8)
    num_layers: int = Field(2, ge=1)
    num_heads: int = Field(8, ge=1)
    mlp_ratio: float = Field(2.0, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    head_hidden_dim: int = Field(4096, ge=8)
    target_hidden_dim: int = Field(2048, ge=8)
    projection_dim: int = Field(128, ge=2)
    geometry: Literal["none", "time", "box", "all"] = "all"
    """Which parts of the 7-vector (flip, box, time) the model sees."""
    geometry_frame: Literal["per_video", "absolute"] = "per_video"
    """per_video: min-max over the video's crops, as in SCALE. absolute: seconds, and fractions of the frame."""

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> ModelSpec:
        if self.dim % self.num_heads:
            raise ValueError(f"expected dim to be a multiple of num_heads, found {self.dim} and {self.num_heads}")
        return self


class TrainSpec(Spec):
    """Training of the aggregator on stored features."""

    name: Name = "scale"
    """Name of the model in the store."""
    crops: str
    """Crop set to train on."""
    backbone: str
    """Feature set to train on (the backbone, plus `-<stream>` where it is not rgb)."""
    objective: ObjectiveSpec = ScaleObjective()
    model: ModelSpec = ModelSpec()
    rows: Literal["train", "all"] = "train"
    """train: inductive. all: transductive; every report then says so."""
    split: str = "1"
    set_size: int = Field(8, ge=1)
    """Crops in each of the two disjoint sets."""
    batch_size: int = Field(512, ge=2)
    accumulate: int = Field(1, ge=1)
    epochs: int = Field(200, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    clip_norm: float | None = Field(None, gt=0)
    ema: float | None = Field(None, gt=0, lt=1)
    amp: Literal["auto", "off", "bf16"] = "auto"
    """auto: bf16 on a GPU, off on a CPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    checkpoint_epochs: int = Field(10, ge=1)
    seed: int = 0


class EmbedSpec(Spec):
    """Which video embeddings `embed` writes back, with the model of `train`."""

    name: Name | None = None
    """Name of the embedding set; None: the model's."""
    crops: str
    """Crop set to read."""
    backbone: str | None = None
    """Feature set to read; None: the one the model was trained on."""
    readout: Literal["cls", "mean", "joined", "joined_normalised", "whitened"] = "cls"
    """cls: set token. mean: pooled crops. joined: [mean; cls]. joined_normalised: each of norm 1. whitened: its PCA."""
    sets: int = Field(1, ge=1)
    """Into how many disjoint sets the crops are dealt; their embeddings are averaged."""
