"""Names that become folders and files: one rule, checked in one place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from pipeline.errors import UnsafeNameError

MAX_NAME_LENGTH = 100
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z")
_RESERVED = frozenset(
    {"zarr.json", "catalog", "crops", "embeddings", "models", "indexes", "reports", "ledger", "claims"}
)


def check_name(name: str) -> str:
    """Return `name` if it can safely be a folder of the store.

    Parameters
    ----------
    name : str
        Name of a dataset, crop set, feature set, model, index or report.

    Returns
    -------
    str
        The same name.

    Raises
    ------
    UnsafeNameError
        If it is empty, longer than 100 characters, reserved, starts with a
        dot or a dash, or holds anything but ASCII letters, digits and ``._+-``.
    """
    if not isinstance(name, str) or not _SAFE.match(name) or len(name) > MAX_NAME_LENGTH or name in _RESERVED:
        raise UnsafeNameError(
            f"expected a name of 1-{MAX_NAME_LENGTH} letters, digits and . _ + - that starts with a letter or digit "
            f"(and is not a reserved word), found {name!r}; choose another name"
        )
    return name


def check_set_name(name: str) -> str:
    """Return `name` if it is one, or that of an older version: ``scale@2``.

    Raises
    ------
    UnsafeNameError
        If it is neither.
    """
    base, at, version = name.partition("@")
    if at and not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        raise UnsafeNameError(f"expected a name, or NAME@2 for an older version, found {name!r}")
    check_name(base)
    return name


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """Return ``; did you mean x?`` where one of the known words is close, else nothing."""
    close = difflib.get_close_matches(found[:100], list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
