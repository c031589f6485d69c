"""Zero-shot classification: the words for a class instead of training videos."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from pipeline.recipe.probes.base import ProbeBase


class ZeroShotProbe(ProbeBase):
    """The class whose words are nearest to a video, by a backbone that has a text tower. No label is learned from."""

    kind: Literal["zero_shot"]
    readouts: tuple[Literal["mean"], ...] = ("mean",)
    """Words are compared with the mean of the crops, neither of them centred."""
    templates: tuple[str, ...] = Field(("a video of {}",), min_length=1, max_length=200)
    """`{}` stands for the class, underscores as spaces; a class's vector is the mean over its templates."""
    words: dict[str, str] = Field(default_factory=dict)
    """Class -> words for it, where its label says little."""

    @field_validator("templates")
    @classmethod
    def _has_one_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{}") != 1:
                raise ValueError(f"expected a template with {{}} in the place of the class, found {template!r}")
        return templates

    def texts(self, label: str) -> list[str]:
        """Return what is said of a class."""
        words = self.words.get(label, label.replace("_", " "))
        return [template.replace("{}", words) for template in self.templates]
