"""Which places a process may use: a worker that runs what a server sends it can be confined to some.

Without `SCALE_ROOTS` every folder and address that the process can reach may be named by a run's parameters.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.errors import InvalidInputError


def split_roots(text: str | None) -> tuple[str, ...]:
    """Return the places of a comma-separated list."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def check_allowed(place: str | Path, roots: Sequence[str], *, what: str) -> None:
    """Raise unless a place lies in one of the roots; without roots every place is allowed.

    Links are followed first: a link out of a root is out.

    Parameters
    ----------
    place : str or Path
        A folder, a file, or an address such as ``s3://bucket/store``.
    roots : sequence of str
        Folders and addresses.
    what : str
        For the message: ``"store"``.

    Raises
    ------
    InvalidInputError
        If it lies elsewhere.
    """
    if not roots:
        return
    found = _parts(str(place))
    if not any(found[: len(root)] == root for root in map(_parts, roots)):
        raise InvalidInputError(
            f"expected the {what} in one of the places that this worker may use (SCALE_ROOTS: {', '.join(roots)}), "
            f"found {str(place)[:200]}; name another place, or have whoever runs the worker add it"
        )


def _parts(place: str) -> tuple[str, ...]:
    """Return a place as comparable parts; ``..`` and links are resolved, and a bucket has none."""
    scheme, separator, _ = place.partition("://")
    if separator and scheme != "file":
        address = urlsplit(place)
        path = os.path.normpath("/" + unquote(address.path))
        return (f"{scheme}://{address.netloc}", *(part for part in path.split("/") if part))
    path = unquote(urlsplit(place).path) if separator else place
    try:
        return Path(os.path.realpath(os.path.expanduser(path))).parts
    except (OSError, ValueError):
        return ("?",)
