"""The videos of a dataset: what every product is made of in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.products.product import Kind, Product, Ref, Stored

if TYPE_CHECKING:
    from pipeline.store.dataset import Dataset


@dataclass(frozen=True)
class Videos(Product):
    """A dataset's catalogue; its name is the dataset's."""

    kind: ClassVar[Kind] = "videos"

    @property
    def inputs(self) -> tuple[Ref, ...]:
        """Nothing in the store."""
        return ()

    def content(self, ds: Dataset) -> Mapping[str, Any] | None:
        """Nobody can say here: the files lie outside the store."""
        return None

    def stored(self, ds: Dataset) -> Stored | None:
        """Return the catalogue, if it holds videos."""
        return Stored("", "", {}) if ds.num_rows else None

    def rows(self) -> list[dict[str, object]]:
        """One row."""
        return [{"dataset": self.name}]
