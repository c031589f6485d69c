"""The shape of every stage: plan first, then run.

Each stage offers two verbs, ``plan_<stage>(recipe, store, settings, **options)``
and ``run_<stage>(plan, store, settings, on_event=ignore)``. The plan is frozen,
costs neither a GPU nor pixels, and can be printed, questioned and tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.products.standing import Standing


class StagePlan(Protocol):
    """What `--dry-run` prints and the run executes."""

    @property
    def stage(self) -> str:
        """catalog, extract, train, embed, probe, index or verify."""

    @property
    def is_empty(self) -> bool:
        """Whether everything is there already."""

    @property
    def standings(self) -> tuple[Standing, ...]:
        """How each product of the stage stands."""

    def summary(self) -> str:
        """One line: what would be done, how much of it, and why."""

    def table(self) -> Sequence[Mapping[str, object]]:
        """Rows for people: one a unit of work, all with the same keys, the last one `why`."""
