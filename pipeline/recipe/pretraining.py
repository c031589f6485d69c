"""Pretraining of a backbone from pixels, without labels: network, clips, augmentation, objective, schedule."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.recipe.base import LATER, Spec
from pipeline.recipe.crops import ColourAugmentation, CropPolicy
from pipeline.recipe.objectives import ObjectiveSpec, ScaleObjective


class EncoderSpec(Spec):
    """A network to pretrain, at any size."""

    network: Literal["small", "slow", "c2d", "i3d", "r2plus1d", "csn", "x3d", "mvit"] = "small"
    """small: this project's own residual (2+1)D network, for a CPU. The others: pytorchvideo's builders."""
    depth: int | None = Field(None, ge=1)
    """small: residual blocks a stage. slow, c2d, i3d, r2plus1d, csn: 50 or 101. x3d: a factor. mvit: blocks."""
    width: int | None = Field(None, ge=4)
    """Channels of the stem; None: the builder's own."""
    norm: Literal["batch", "group", "temporal_group"] = "batch"
    """temporal_group: statistics of each frame by itself, so that speed does not show in them."""
    size_px: int = Field(64, ge=16)
    """Side of its square input."""
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    """Of RGB in 0..1."""
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)


class ForegroundMerging(Spec):
    """FAME (Ding et al.; CVPR 2022): what moves is put before the background of another video."""

    probability: float = Field(0.5, gt=0, le=1)
    """Of a clip."""
    share: float = Field(0.5, gt=0, lt=1)
    """Of the pixels, those that change most over time: the foreground."""


class AugmentSpec(Spec):
    """What is done to each clip anew in every step; the same for all frames of a clip."""

    area: tuple[float, float] = (0.4, 1.0)
    """Area fraction of the clip that is cut out."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    colour: ColourAugmentation | None = None
    gain: tuple[float, float] = (1.0, 1.0)
    """The distance of all grey levels from the middle is multiplied by a factor of this range."""
    invert: float = Field(0.0, ge=0, le=1)
    """Probability of the negative."""
    mix_channels: float = Field(0.0, ge=0, le=1)
    """Probability of a random linear mixture of the three colours."""
    foreground: ForegroundMerging | None = None


class HeadSpec(Spec):
    """The projection that objectives score; not part of the backbone."""

    hidden_dim: int = Field(256, ge=8)
    projection_dim: int = Field(64, ge=2)
    norm: Annotated[Literal["none", "batch"], LATER] = "none"
    """batch: after both layers, so that what all clips have in common is taken out. Prototypes want it: without, every
    clip is nearly as near to each of them, and assignments say next to nothing."""


class PretrainSpec(Spec):
    """Pretraining of one backbone."""

    encoder: EncoderSpec = EncoderSpec()
    clips: CropPolicy
    """Crops that are decoded of every video, drawn afresh for every decoding; only pretraining sees them."""
    streams: tuple[Literal["rgb", "tgrad", "flow"], ...] = Field(("rgb",), min_length=1, max_length=2)
    """What the networks see: one, or two for objectives that compare streams. The first one's network is kept."""
    views: int | None = Field(2, ge=1)
    """Clips of a video in one step, out of those decoded; None: all."""
    set_size: int = Field(1, ge=1)
    """Clips in each of the two sets that objectives compare."""
    augment: AugmentSpec = AugmentSpec()
    objective: ObjectiveSpec = ScaleObjective(kind="ntxent", temperature=0.1)
    head: HeadSpec = HeadSpec()
    rows: Literal["train", "all"] = "train"
    """train: only the split's training rows. all: transductive; reports say so."""
    split: str = "1"
    batch_size: int = Field(64, ge=2)
    """Videos a step, over all processes."""
    epochs: int = Field(100, ge=1)
    reuse: int = Field(1, ge=1)
    """Epochs that see the clips of one decoding, each time augmented anew."""
    cache_gib: float = Field(16.0, gt=0)
    """Room for decoded clips, those in use and the next ones: more videos than fit take their turns in parts."""
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of sgd."""
    weight_decay: float = Field(1e-4, ge=0)
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    clip_norm: float | None = Field(None, gt=0)
    ema: float | None = Field(None, gt=0, lt=1)
    """Of the moving average that objectives with a teacher look at; it becomes the backbone."""
    amp: Literal["auto", "off", "bf16"] = "auto"
    checkpointing: Annotated[bool, LATER] = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time."""
    probe_epochs: int | None = Field(None, ge=1)
    """Every so many epochs, and at the end, a kNN probe on training groups held out from the pretraining."""
    probe_fraction: float = Field(0.2, gt=0, lt=1)
    """Share of the training groups held out for it."""
    checkpoint_epochs: int = Field(10, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _parts_fit(self) -> PretrainSpec:
        if self.objective.hidden_share and getattr(self.objective, "kind", "") in ("scale", "mcm", "set"):
            raise ValueError(
                f"objective {self.objective.kind} hides crops from a set transformer, of which a backbone has none; "
                "use ntxent, cvrl, vicc, vicreg, barlow_twins, coclr, svt, speed or another that compares clips"
            )
        if self.objective.negatives_from:
            raise ValueError(
                f"expected {self.objective.kind} without {self.objective.negatives_from[0]!r} where a backbone is "
                "pretrained, which sees pixels and no stored features; leave `turned` out"
            )
        if len(self.streams) > self.objective.max_streams:
            raise ValueError(
                f"{self.objective.kind} takes {self.objective.max_streams} stream(s), found {self.streams}"
            )
        views = self.views if self.views is not None else self.clips.num_crops
        if views > self.clips.num_crops:
            raise ValueError(f"expected views up to num_crops of clips ({self.clips.num_crops}), found {views}")
        return self

    def num_parts(self, num_videos: int) -> int:
        """Return in how many parts these videos take their turns, so that the clips of two fit into the cache."""
        policy = self.clips
        frames = policy.num_crops * policy.num_frames * (1 if self.streams == ("rgb",) else 2)
        wanted = 2 * num_videos * frames * policy.size_px**2 * 3 / (self.cache_gib * 2**30)
        return max(1, min(math.ceil(wanted), num_videos // self.batch_size))

    @property
    def views_per_step(self) -> int:
        """Clips of a video in one step."""
        return self.clips.num_crops if self.views is None else self.views
