"""The aggregator: model, objective, schedule, and which embeddings are written back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.recipe.base import LATER, Name, Spec
from pipeline.recipe.objectives import ObjectiveSpec, ScaleObjective
from pipeline.recipe.readout_words import OF_MODELS, EmbeddedReadout


def split_label(label: str) -> tuple[str, str]:
    """Return crop set and feature set of ``crop set/feature set``.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    crops, slash, feature_set = label.partition("/")
    if not (crops and slash and feature_set) or "/" in feature_set:
        raise ValueError(f"expected `crop set/feature set`, such as train16/slow_r50, found {label!r}")
    return crops, feature_set


def _spread_features(content: Any) -> Any:
    """Let `features` stand for crops and backbone: of one, these are all; of several, they name the first."""
    if not isinstance(content, dict) or not content.get("features"):
        return content
    labels = content["features"]
    labels = [labels] if isinstance(labels, str) else list(labels)
    crops, feature_set = split_label(str(labels[0]))
    for key, value in (("crops", crops), ("backbone", feature_set)):
        if content.get(key, value) != value:
            raise ValueError(f"expected {key} {value!r}, as features name it, found {content[key]!r}; leave it out")
    more = {"features": labels} if len(labels) > 1 else {}
    return {k: v for k, v in content.items() if k != "features"} | {"crops": crops, "backbone": feature_set} | more


def _method_is_objective(content: Any) -> Any:
    """Let `method` stand for the objective's kind."""
    if not isinstance(content, dict) or content.get("method") is None:
        return content
    method, objective = content["method"], content.get("objective", {})
    if isinstance(objective, dict):
        if objective.get("kind", method) != method:
            raise ValueError(f"expected objective.kind {method!r}, as method says, found {objective['kind']!r}")
        objective = {"kind": method, **objective}
    return {k: v for k, v in content.items() if k != "method"} | {"objective": objective}


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


ModelNames = Annotated[tuple[Name, ...] | None, BeforeValidator(_as_list), LATER]
"""Names of models to read, one or a list; None: all of the recipe."""


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
    norm: Annotated[Literal["layer", "temporal_group"], LATER] = "layer"
    """layer: each token by itself. temporal_group: crops of one part of the video together, scales for each part."""
    norm_groups: Annotated[int, Field(ge=2), LATER] = 4
    """Parts of the video for temporal_group."""

    @model_validator(mode="after")
    def _norm_sees_time(self) -> ModelSpec:
        if self.norm == "temporal_group" and self.geometry not in ("time", "all"):
            raise ValueError(f"expected geometry time or all for the norm temporal_group, found {self.geometry}")
        return self

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> ModelSpec:
        if self.dim % self.num_heads:
            raise ValueError(f"expected dim to be a multiple of num_heads, found {self.dim} and {self.num_heads}")
        return self


class MovingCrops(Spec):
    """Which crops are learned from, by a motion score of each: those of each video that move most."""

    by: str
    """Feature set of one channel on the same crops, as `crop set/feature set`: a backbone of the kind `motion`."""
    share: float = Field(0.5, gt=0, le=1)
    """Of each video's valid crops; at least one."""

    @property
    def pair(self) -> tuple[str, str]:
        """Crop set and feature set of the score."""
        return split_label(self.by)

    @model_validator(mode="after")
    def _names_a_feature_set(self) -> MovingCrops:
        split_label(self.by)
        return self


class TrainSpec(Spec):
    """Training of a model on stored features: `train`, or one of `models`."""

    name: Name = "scale"
    """Name of the model in the store; in `models` its key."""
    method: Annotated[str | None, LATER] = None
    """The named system that trains it (`scale`, ...): short for `objective: {kind: ...}`."""
    features: Annotated[tuple[str, ...], LATER] = ()
    """What to train on, as `crop set/feature set`: one, or one a stream. Stands for crops and backbone."""
    crops: str
    """Crop set to train on (of the first stream)."""
    backbone: str
    """Feature set to train on (the backbone, plus `-<stream>` where it is not rgb)."""
    objective: ObjectiveSpec = ScaleObjective()
    model: ModelSpec = ModelSpec()
    normalise: Literal["train", "none"] = "train"
    """train: channels are standardised by the training rows, and the model keeps by what. none: as the released code,
    which learns nothing from features whose common offset is large against their spread."""
    rows: Literal["train", "all"] = "train"
    """train: inductive. all: transductive; every report then says so."""
    split: str = "1"
    set_size: int = Field(8, ge=1)
    """Crops in each of the two disjoint sets."""
    moving: Annotated[MovingCrops | None, LATER] = None
    """Deal only the crops that move most into sets (MCL); None: all."""
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

    _named = model_validator(mode="before")(_method_is_objective)
    _spread = model_validator(mode="before")(_spread_features)

    @model_validator(mode="after")
    def _streams_fit(self) -> TrainSpec:
        most = self.objective.streams_at_most
        if len(self.inputs) > most:
            found = ", ".join("/".join(pair) for pair in self.inputs)
            raise ValueError(f"{self.objective.kind} takes {most} feature set(s), found {len(self.inputs)}: {found}")
        for label in self.objective.negatives_from:
            split_label(label)
        return self

    @property
    def feature_set(self) -> str:
        """The feature set that is read, which the recipe calls `backbone`."""
        return self.backbone

    @property
    def inputs(self) -> tuple[tuple[str, str], ...]:
        """(crop set, feature set) of each stream."""
        return tuple(split_label(label) for label in self.features) or ((self.crops, self.feature_set),)

    @property
    def learned_from(self) -> tuple[tuple[str, str], ...]:
        """(crop set, feature set) of all that enters the loss: each stream, and what serves as negatives alone."""
        return (*self.inputs, *(split_label(label) for label in self.objective.negatives_from))

    @property
    def reads(self) -> tuple[tuple[str, str], ...]:
        """(crop set, feature set) of all that is read: what is learned from, and the motion score behind it."""
        return self.learned_from if self.moving is None else (*self.learned_from, self.moving.pair)

    def stream_of(self, feature_set: str) -> int:
        """Return which stream's network reads a feature set; the first where none was trained on it."""
        names = [name for _, name in self.inputs]
        return names.index(feature_set) if feature_set in names else 0


class EmbedSpec(Spec):
    """Which video embeddings `embed` writes back: one set for each model it reads."""

    name: Name | None = None
    """Name of the embedding set; None: the model's. With several `models`, the model's name is added."""
    models: ModelNames = None
    """The model that embeds, or several; None: all of the recipe."""
    features: Annotated[tuple[str, ...], LATER] = ()
    """What to read, as `crop set/feature set`, one a stream. Stands for crops and backbone."""
    crops: str
    """Crop set to read."""
    backbone: str | None = None
    """Feature set to read; None: those the model was trained on."""
    readout: EmbeddedReadout = "cls"
    """cls: set token. mean: pooled crops. joined: [mean; cls]. joined_normalised: each of norm 1. whitened: its PCA.
    Without a model: moments, sqrt, std of the feature set, or one of the recipe's `readouts`."""
    split: Annotated[str, LATER] = "1"
    """Whose training rows a readout without a model is centred (and whitened) by."""
    sets: int = Field(1, ge=1)
    """Into how many disjoint sets the crops are dealt; their embeddings are averaged."""

    _spread = model_validator(mode="before")(_spread_features)

    @property
    def feature_set(self) -> str | None:
        """The feature set that is read, which the recipe calls `backbone`."""
        return self.backbone

    @property
    def needs_model(self) -> bool:
        """Whether a trained model makes it."""
        return self.readout in OF_MODELS

    def inputs(self, model: TrainSpec | None) -> tuple[tuple[str, str], ...]:
        """(crop set, feature set) of each stream that is read."""
        if self.features:
            return tuple(split_label(label) for label in self.features)
        if self.feature_set is not None:
            return ((self.crops, self.feature_set),)
        trained_on = () if model is None else tuple(feature_set for _, feature_set in model.inputs)
        return tuple((self.crops, feature_set) for feature_set in dict.fromkeys(trained_on))
