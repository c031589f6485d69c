"""How much of what is recognised is the background."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.recipe.probes.base import ProbeBase


class BackgroundProbe(ProbeBase):
    """Whole train videos are asked for the neighbours of test videos of which only what moves is shown (after FAME).

    The result is the accuracy without background; `drop` says how many points the background was worth.
    """

    kind: Literal["background"]
    foreground: str
    """Feature set of the same crops that shows what moves alone: the backbone with the stream `foreground`."""
    k: int = Field(20, ge=1)
    temperature: float = Field(0.07, gt=0)

    @model_validator(mode="after")
    def _compares_two(self) -> BackgroundProbe:
        if self.backbone is None or self.backbone == self.foreground:
            raise ValueError(f"expected a backbone to compare {self.foreground} with, found {self.backbone}")
        return self

    @property
    def readouts(self) -> tuple[str, ...]:
        """Pooled crops."""
        return ("mean",)

    @property
    def also_reads(self) -> tuple[str, ...]:
        """The crops without their background."""
        return (self.foreground,)
