"""Trained classifiers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from pipeline.recipe.base import LATER
from pipeline.recipe.probes.base import ProbeBase
from pipeline.recipe.readout_words import TrainedReadout


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
    solver: Annotated[Literal["auto", "lbfgs", "adamw"], LATER] = "auto"
    """Of the linear probe. lbfgs: penalised logistic regression, solved at every penalty. adamw: steps over batches, as
    the mlp and attentive probes. auto: lbfgs up to 5,000 rows to learn from (of the readout crops, crops), where rates,
    decays, epochs and batch size are the usual ones. Reports of before were all made with adamw."""
    penalties: Annotated[tuple[PositiveFloat, ...], LATER] = Field(
        (1e-4, 4e-4, 2e-3, 7e-3, 3e-2, 0.1, 0.5, 2.0, 10.0), min_length=1
    )
    """L2, for lbfgs: times half the squared weights, beside the mean loss of a row, on standardised channels."""

    @model_validator(mode="after")
    def _solver_fits(self) -> LinearProbe:
        if self.solver == "lbfgs" and self.kind != "linear":
            raise ValueError(f"expected solver adamw (or none named) for the {self.kind} probe, found lbfgs")
        return self

    @property
    def may_be_solved(self) -> bool:
        """Whether L-BFGS does it, if the rows are few enough."""
        fields = ("learning_rates", "weight_decays", "epochs", "batch_size")
        usual = all(getattr(self, name) == type(self).model_fields[name].default for name in fields)
        return self.kind == "linear" and (self.solver == "lbfgs" or (self.solver == "auto" and usual))

    @property
    def reads(self) -> tuple[str, ...]:
        """The attentive probe reads all crops itself."""
        return ("attention",) if self.kind == "attentive" else tuple(self.readouts)
