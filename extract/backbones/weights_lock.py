"""The user's lock file: names of weights with the hash that was seen when they were fetched or added.

A recipe may name weights once they stand here; a file that is another one later is refused.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.cache import cache_folder
from pipeline.errors import CorruptDataError, NotFoundError
from pipeline.names import check_name, did_you_mean
from pipeline.storage.whole_file import whole_file


@dataclass(frozen=True, slots=True)
class Locked:
    """What the lock file says about a name."""

    file: str
    """Path, or the name of a file in the cache."""
    sha256: str
    num_bytes: int
    address: str

    @property
    def path(self) -> Path:
        """Where it lies."""
        return weights_folder() / self.file


def weights_folder() -> Path:
    """Return the folder of fetched weights."""
    return cache_folder() / "weights"


def lock_path() -> Path:
    """Return the lock file: `SCALE_WEIGHTS_LOCK`, or beside the fetched weights."""
    given = os.environ.get("SCALE_WEIGHTS_LOCK")
    return Path(given) if given else weights_folder() / "weights.lock.json"


def read_lock() -> dict[str, Locked]:
    """Return what is locked, by name.

    Raises
    ------
    CorruptDataError
        If the lock file is none.
    """
    path = lock_path()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): Locked(**one) for name, one in content.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, OSError) as err:
        raise CorruptDataError(f"{path}: expected the lock file of weights, found: {err}; remove or mend it") from err


def lock(name: str, entry: Locked) -> None:
    """Write a name into the lock file, in the place of what it was."""
    entries = read_lock() | {check_name(name): entry}
    path = lock_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps({n: asdict(e) for n, e in sorted(entries.items())}, indent=1) + "\n", "utf-8")


def locked(name: str) -> Locked:
    """Return what a name stands for.

    Raises
    ------
    NotFoundError
        If it is not in the lock file, or its file is gone; says what to do.
    """
    entries = read_lock()
    if name not in entries:
        raise NotFoundError(
            f"expected weights by the name {name} in {lock_path()} ({', '.join(sorted(entries)) or 'it holds none'}), "
            f"found none; `scale weights fetch {name}`, or `scale run --fetch`{did_you_mean(name, entries)}"
        )
    if not entries[name].path.is_file():
        raise NotFoundError(
            f"expected the weights {name} at {entries[name].path}, found none; `scale weights fetch {name}`"
        )
    return entries[name]
