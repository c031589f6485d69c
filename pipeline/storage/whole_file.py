"""Writing a file for people so that it is either all there or not there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import InvalidInputError, SetupError, StorageError


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; at the end it is fsynced and renamed, on an error removed.

    Raises
    ------
    InvalidInputError
        If the folder is not there, or `path` is one.
    SetupError, StorageError
        If writing failed.
    """
    target = Path(path).expanduser()
    if not target.parent.is_dir() or target.is_dir():
        raise InvalidInputError(
            f"expected a file name in a folder that exists, found {target}; create the folder first"
        )
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except PermissionError as err:
        raise SetupError(f"expected to write {target}, found: {err.strerror}; change the permissions") from err
    except OSError as err:
        raise StorageError(f"expected to write {target}, found: {err}; free some space or try again") from err
    finally:
        temporary.unlink(missing_ok=True)
