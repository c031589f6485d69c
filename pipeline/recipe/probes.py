"""Probes: what is measured on frozen features and embeddings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.base import Spec

Readout = Literal["mean", "cls", "joined"]


class ProbeBase(Spec):
    """What all probes share."""

    crops: str
    """Crop set whose features are read."""
    backbone: str | None = None
    """Feature set; None: every feature set of the recipe's backbones."""
    readouts: tuple[Readout, ...] = ("mean", "cls", "joined")
    """mean: pooled crops. cls: the SCALE embedding. joined: both. Those with cls need `train` and `embed`."""
    split: str = "1"
    centring: Literal["none", "train", "per_split"] = "train"
    """Whose mean is subtracted: nobody's, the train rows' from all, each split's own (SCALE's code)."""
    seed: int = 0


class KnnProbe(ProbeBase):
    """Weighted nearest neighbours by cosine similarity."""

    kind: Literal["knn"]
    k: tuple[int, ...] = (1, 5, 10, 20)
    temperature: float | tuple[float, ...] = 0.07


class LinearProbe(ProbeBase):
    """A linear classifier; learning rate, weight decay and epoch are chosen on held-out groups of the train rows."""

    kind: Literal["linear", "mlp", "attentive"]
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    weight_decays: tuple[float, ...] = (0.0, 1e-4, 1e-3)
    epochs: int = Field(60, ge=1)
    batch_size: int = Field(512, ge=1)
    holdout_fraction: float = Field(0.2, gt=0, lt=1)
    hidden_dim: int = Field(512, ge=1)
    """Of the mlp and attentive probes."""
    fractions: tuple[float, ...] = (1.0,)
    """Shares of the train labels (low-shot), class-balanced."""
    per_class: tuple[int, ...] = ()
    """Low-shot by number per class."""
    num_seeds: int = Field(1, ge=1)


class RetrievalProbe(ProbeBase):
    """Recall at k and mean average precision; query = test, gallery = train."""

    kind: Literal["retrieval"]
    k: tuple[int, ...] = (1, 5, 10, 20, 50)
    gallery: Literal["mean", "random_crop"] = "mean"
    exclude_siblings: bool = False


ProbeSpec = Annotated[KnnProbe | LinearProbe | RetrievalProbe, Field(discriminator="kind")]


class IndexSpec(Spec):
    """A FAISS index over one feature or embedding set, for search."""

    name: str = "default"
    crops: str
    backbone: str | None = None
    readout: Readout = "mean"
    kind: Literal["auto", "flat", "hnsw", "ivfpq"] = "auto"
