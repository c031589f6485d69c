"""Formats of files that features are written to: a function a suffix, found in this folder or brought by a package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from pipeline.errors import SetupError
from pipeline.recipe.kinds import load_modules

if TYPE_CHECKING:
    from pipeline.sets.handles import SelectionHandle

GROUP = "scale.exports"
"""Entry-point group of formats from outside; the name is the suffix without its dot."""
Writer: TypeAlias = "Callable[[SelectionHandle, Path, str, str], Path]"
"""(selection, path, crop set, feature set) -> the file written."""

W = TypeVar("W", bound="Writer")
_OWN: dict[str, Writer] = {}


def writes(*suffixes: str) -> Callable[[W], W]:
    """Register a function as the writer of files with these suffixes."""

    def register(writer: W) -> W:
        _OWN.update(dict.fromkeys(suffixes, writer))
        return writer

    return register


def own_formats() -> Mapping[str, Writer]:
    """Suffix -> writer, of the house's own."""
    load_modules(__package__)
    return _OWN


def suffixes() -> tuple[str, ...]:
    """Return every suffix that features can be written to; nothing from outside is imported."""
    return tuple(dict.fromkeys((*own_formats(), *(f".{point.name}" for point in entry_points(group=GROUP)))))


def writer_of(suffix: str) -> Writer | None:
    """Return the writer of files with this suffix, or None.

    Raises
    ------
    SetupError
        If the package that brings it cannot be imported.
    """
    if suffix in own_formats():
        return _OWN[suffix]
    for point in entry_points(group=GROUP, name=suffix.removeprefix(".")):
        try:
            found: Writer = point.load()
        except Exception as err:  # whatever an installed package raises when it is imported
            raise SetupError(
                f"expected the entry point {point.value} ({GROUP}) to write {suffix}, importing it raised "
                f"{type(err).__name__}: {err}; mend or remove the package"
            ) from err
        return found
    return None
