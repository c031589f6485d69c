"""Probes: what is measured on frozen features and embeddings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from pipeline.names import Name
from pipeline.recipe.base import LATER, Spec
from pipeline.recipe.training import ModelNames

Readout = Literal["mean", "cls", "joined", "moments", "sqrt", "std"] | Name
TrainedReadout = Literal["mean", "crops", "cls", "joined", "moments", "sqrt", "std"] | Name


class ProbeBase(Spec):
    """What all probes share."""

    crops: str
    """Crop set whose features are read."""
    backbone: str | None = None
    """Feature set; None: every feature set of the recipe's backbones."""
    models: ModelNames = None
    """Models whose embeddings are read, one or a list; None: all of the recipe."""
    split: str = "1"
    side: Annotated[Literal["test", "val"], LATER] = "test"
    """Which side of the split is measured; val where the labels of test are not given out. Tables then say `1/val`."""
    seed: int = Field(0, ge=0, lt=2**32)
    leak_threshold: float = Field(0.98, gt=0, le=1)
    """Cosine of mean-pooled, train-centred features from which a test and a train video count as near-duplicates."""
    exclude_leaks: bool = False
    """Leave out test videos that are near-duplicates of train videos, instead of only reporting them."""

    @property
    def measured_split(self) -> str:
        """The split's name, with the side where it is not test."""
        return self.split if self.side == "test" else f"{self.split}/{self.side}"


class KnnProbe(ProbeBase):
    """Weighted nearest neighbours by cosine similarity."""

    kind: Literal["knn"]
    readouts: tuple[Readout, ...] = ("mean", "cls", "joined")
    """mean: pooled crops. cls: the SCALE embedding. joined: both. Those with cls need `train` and `embed`. moments:
    mean, first cosines over time and deviation; sqrt, std: one part; another name: one of the recipe's `readouts`."""
    k: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 5, 10, 20), min_length=1)
    temperature: PositiveFloat | Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = 0.07
    """A neighbour's vote weighs exp(similarity / temperature)."""
    centring: Literal["none", "train", "per_split"] = "train"
    """Whose mean is subtracted: nobody's, the train rows' from all, each split's own. SCALE's protocol (k=20, T=.07,
    per_split) is always measured beside."""
    crop_counts: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4, 8, 16)
    """Points of the curve of accuracy against the number of crops a video; all crops are always its last point."""

    @property
    def temperatures(self) -> tuple[float, ...]:
        """As a tuple."""
        return self.temperature if isinstance(self.temperature, tuple) else (self.temperature,)


class LinearProbe(ProbeBase):
    """A trained classifier; learning rate, weight decay and epoch are chosen on held-out groups of the train rows."""

    kind: Literal["linear", "mlp", "attentive"]
    """linear: one layer. mlp: one hidden layer. attentive: a learned query weighs the crops, then one layer."""
    readouts: tuple[TrainedReadout, ...] = ("mean", "crops", "cls", "joined")
    """mean: pooled crops. crops: every crop classified, logits averaged. cls: the SCALE embedding. joined: mean and
    embedding. moments, sqrt, std, other names: as for knn. The attentive probe reads the crops and has no readouts."""
    learning_rates: tuple[PositiveFloat, ...] = Field((3e-4, 3e-3, 3e-2), min_length=1)
    """AdamW, on channels standardised by the train rows; warm-up over 5 % of the steps, then a cosine to 0."""
    weight_decays: tuple[NonNegativeFloat, ...] = Field((0.0, 0.1, 1.0), min_length=1)
    """Decoupled, times the learning rate."""
    epochs: int = Field(60, ge=1)
    batch_size: int = Field(512, ge=1)
    """At most. Small sets get smaller batches, so that an epoch has 8 steps, but not below 32 rows."""
    holdout_fraction: float = Field(0.2, gt=0, le=0.5)
    """Share of the train groups that choose. Up to 5,000 train rows the linear probe holds every such fold out once."""
    hidden_dim: int = Field(512, ge=1)
    """Of the mlp probe."""
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (1.0,)
    """Shares of the train labels (low-shot: 0.01, 0.05, 0.1), class-balanced."""
    per_class: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Low-shot by number per class."""
    num_seeds: int = Field(1, ge=1)
    """Seeds of initialisation and of the low-shot draws: seed, seed + 1, ..."""


class RetrievalProbe(ProbeBase):
    """Recall at k and mean average precision; query = test, gallery = train."""

    kind: Literal["retrieval"]
    readouts: tuple[Readout, ...] = ("mean", "cls", "joined")
    """As for knn."""
    centring: Literal["none", "train", "per_split"] = "train"
    k: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 5, 10, 20, 50), min_length=1)
    gallery: Literal["mean", "random_crop"] = "mean"
    """mean: all crops of a train video, deterministic. random_crop: one drawn crop of it, as CoCLR and ViCC do (readout
    mean only)."""
    exclude_siblings: bool = False
    """Leave out train videos of the query's own group."""


ProbeSpec = Annotated[KnnProbe | LinearProbe | RetrievalProbe, Field(discriminator="kind")]


class IndexSpec(Spec):
    """A FAISS index over one feature or embedding set, for search."""

    name: Name = "default"
    """Where it makes several (feature sets, embeddings), each has the name of what it reads behind it."""
    crops: str
    backbone: str | None = None
    models: ModelNames = None
    """Models whose embeddings are read, one or a list; None: all of the recipe."""
    readout: Readout = "mean"
    kind: Literal["auto", "flat", "hnsw", "ivfpq"] = "auto"
