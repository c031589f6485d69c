"""What a pretraining is handed by those who decode videos and build networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from torch import device, nn

from pipeline.compute.clips import ClipBatch, ClipSource
from pipeline.recipe import PretrainSpec
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline import Dataset


class Material(Protocol):
    """The clips and networks of one pretraining."""

    @property
    def source(self) -> ClipSource:
        """Where clips come from."""

    @property
    def encoders(self) -> Mapping[str, tuple[nn.Module, int]]:
        """Stream -> network with drawn weights, and its channels."""

    def encode(self, network: nn.Module) -> bytes:
        """Return a network as the bytes of its file."""

    def picture(self, batch: ClipBatch) -> bytes:
        """Return a PNG of what the network sees of a batch."""

    def clear(self) -> None:
        """Remove clips that nobody needs any more."""


class Supply(Protocol):
    """Makes the material of a pretraining."""

    def __call__(
        self, spec: PretrainSpec, dataset: Dataset, settings: Settings, place: device, share: tuple[int, int]
    ) -> Material:
        """Open the clips of a dataset for one process out of `share` (rank, number), and build the networks."""
