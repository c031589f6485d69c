"""What a derived thing is: its kind and name, what it is made of, and what decides its numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

from pipeline.errors import InvalidInputError
from pipeline.names import did_you_mean

if TYPE_CHECKING:
    from pipeline.store.dataset import Dataset

T = TypeVar("T")
Kind = Literal["videos", "backbone", "features", "model", "embeddings", "report", "index"]
STAGE_OF: Mapping[str, str] = {
    "videos": "catalog",
    "backbone": "pretrain",
    "features": "extract",
    "model": "train",
    "embeddings": "embed",
    "report": "probe",
    "index": "index",
}
"""Which stage makes the products of a kind."""


class Ref(NamedTuple):
    """A product by kind and name."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def stage(self) -> str:
        """The stage that makes it."""
        return STAGE_OF[self.kind]


@dataclass(frozen=True)
class Stored:
    """What the store holds under a product's name, and how that was made."""

    fingerprint: str
    snapshot: str
    """The state of the store that it was made from; empty where its units say it one by one."""
    known: Mapping[str, Any]
    """The content behind the fingerprint; in stores made before it was written down, the part that is known."""
    reads: str = ""
    """What it read of that state; empty where that was not written down."""


@dataclass(frozen=True)
class Units:
    """The parts that a product is made in, where there are several: shards."""

    all: tuple[int, ...]
    """Those that can be made now."""
    todo: tuple[int, ...]
    """Those that are missing, or were made from another state of what they read."""


@dataclass(frozen=True)
class Product(ABC):
    """One derived thing that a recipe asks for. Known from the recipe alone; the store says how far it is.

    A kind is one subclass: how it is named, what it reads, what decides its numbers, and where it is kept.
    """

    dataset: str
    name: str
    section: str
    """Where it stands in the recipe: ``train``, ``models.vicc``, ``embed[0]``."""

    kind: ClassVar[Kind]
    unit: ClassVar[str] = ""
    """What its parts are called; empty where it is made whole."""

    @property
    def ref(self) -> Ref:
        """Its kind and name."""
        return Ref(self.kind, self.name)

    @property
    @abstractmethod
    def inputs(self) -> tuple[Ref, ...]:
        """What it is made of, nearest first."""

    @property
    def needs(self) -> tuple[Ref, ...]:
        """Those of the inputs without which it cannot be made."""
        return self.inputs

    @abstractmethod
    def content(self, ds: Dataset) -> Mapping[str, Any] | None:
        """Return everything that decides its numbers; its hash is the fingerprint. None where nobody can say here."""

    @abstractmethod
    def stored(self, ds: Dataset) -> Stored | None:
        """Return what stands under its name, None where nothing does."""

    def snapshot(self, ds: Dataset) -> str:
        """Return the state of what it reads; empty where its units say it one by one."""
        return ""

    def reads(self, ds: Dataset) -> str:
        """Return the state of just what it reads: where that is as it was, the rest of the store may have changed.

        Asked for only where the snapshot differs. Empty where nobody can say.
        """
        return ""

    def units(self, ds: Dataset) -> Units | None:
        """Return its parts and which of them are to be done; None where it is made whole."""
        return None

    def made_of(self, key: str) -> Ref | None:
        """Return the input that a dotted key of the content speaks of; None where it is the recipe's own."""
        return None

    def accepts(self, key: str) -> bool:
        """Whether a dotted key of the content may differ from what stands in the store."""
        return False

    def field(self, key: str) -> str:
        """Return what a dotted key of the content is called in the recipe."""
        return f"{self.section}.{key}"

    @abstractmethod
    def rows(self) -> list[dict[str, object]]:
        """Return what is planned, for a table: one row a unit that people think in, all with the same keys."""


def wanted_of(named: Mapping[str, T], only: Iterable[str] | None, what: str) -> dict[str, T]:
    """Return those of a recipe's named parts that are wanted, in the recipe's order; None: all.

    Parameters
    ----------
    what : str
        For the error: ``a model of recipe demo``.

    Raises
    ------
    InvalidInputError
        If there is none of a name in `only`.
    """
    if only is None:
        return dict(named)
    wanted = set(only)
    if unknown := sorted(wanted - named.keys()):
        known = ", ".join(named) or "none"
        raise InvalidInputError(f"expected {what} ({known}), found {unknown[0]!r}{did_you_mean(unknown[0], named)}")
    return {name: part for name, part in named.items() if name in wanted}
