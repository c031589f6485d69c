"""In which fields two contents differ, lists of sections included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Change:
    """One field that has another value now."""

    field: str
    """Dotted; a place in a list as ``probes[0].k``."""
    old: Any
    """None where there was none."""
    new: Any

    def __str__(self) -> str:
        return f"{self.field} {_shown(self.old)} → {_shown(self.new)}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, ...]:
    """Return the fields whose values differ, by name.

    Of `old` only the sections that it has are compared: what a store made before did not write down is not known.
    """
    found: list[Change] = []
    for key in sorted(old.keys() & new.keys()):
        _compare(key, old[key], new[key], found)
    return tuple(found)


def _compare(where: str, old: Any, new: Any, found: list[Change]) -> None:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            _compare(f"{where}.{key}", old.get(key), new.get(key), found)
    elif _is_sections(old) and _is_sections(new):
        for i in range(max(len(old), len(new))):
            before, after = (side[i] if i < len(side) else None for side in (old, new))
            _compare(f"{where}[{i}]", before, after, found)
    elif old != new and not (_is_list(old) and _is_list(new) and list(old) == list(new)):
        found.append(Change(where, old, new))


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_sections(value: Any) -> bool:
    return _is_list(value) and (not value or any(isinstance(item, Mapping) for item in value))


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_shown(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return str(value)
