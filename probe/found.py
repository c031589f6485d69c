"""What one method says beside how often it is right: a section a method, stored flat, as reports always were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Found(BaseModel):
    """Base of all sections: nothing. A method whose figures have no section puts them into `ProbeResult.figures`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class NeighboursFound(Found):
    """Of a vote among nearest neighbours."""

    centring: str | None = None
    k: int | None = None
    """As asked for. `k_used` is smaller where the gallery is."""
    k_used: int | None = None
    temperature: float | None = None


class RetrievalFound(Found):
    """Of a ranked gallery."""

    centring: str | None = None
    recall: dict[int, float] = Field(default_factory=dict)
    """R@k by k."""
    recall_interval: dict[int, tuple[float, float]] = Field(default_factory=dict)


class TrainingFound(Found):
    """Of a classifier that was trained."""

    fraction: float = 1.0
    """Share of the train labels used."""
    n_per_class: int | None = None
    """Train videos per class (low-shot), where that was asked for."""
    selected: dict[str, float | int | str] = Field(default_factory=dict)
    """Hyper-parameters that were chosen: learning_rate, weight_decay, epoch."""
    chosen_on: str = "nothing was chosen"
    """Where they were chosen. Never test, unless this says so."""
    heldout_top1: float | None = None
    """Accuracy on the rows they were chosen on."""


class OtherFound(NeighboursFound, RetrievalFound, TrainingFound):
    """Of a method that is not of the house and says things of several sections."""


SECTIONS: Mapping[str, type[Found]] = {
    "knn": NeighboursFound,
    "zero_shot": NeighboursFound,
    "retrieval": RetrievalFound,
    **dict.fromkeys(("linear", "mlp", "attentive", "semi"), TrainingFound),
    **dict.fromkeys(("order", "overlap", "speed", "tau", "phase"), TrainingFound),
}
"""Kind of a probe of the house -> its section."""
NOTHING_SAID: Mapping[str, Any] = OtherFound().model_dump()
"""Every name that a section may say, with what is stored where it says nothing."""


def section_of(probe: str, said: Mapping[str, Any]) -> Found:
    """Return what a stored result says as the section of its method.

    Parameters
    ----------
    probe : str
        Kind of the probe.
    said : mapping
        Some of :data:`NOTHING_SAID`'s names; what is as there says nothing.
    """
    news = {name for name, value in said.items() if value is not None and value != NOTHING_SAID[name]}
    sections: list[type[Found]] = [SECTIONS.get(probe, Found), *SECTIONS.values(), OtherFound]
    for section in sections:
        if news <= section.model_fields.keys():
            return section.model_validate({name: value for name, value in said.items() if name in section.model_fields})
    raise KeyError(f"expected names out of {sorted(NOTHING_SAID)}, found {sorted(news)}")
