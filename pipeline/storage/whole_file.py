"""Writing a file or a folder of the local disk so that it is either all there or not there."""

from __future__ import annotations

import os
import shutil
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
        _fsync(temporary)
        os.replace(temporary, target)
    except PermissionError as err:
        raise SetupError(f"expected to write {target}, found: {err.strerror}; change the permissions") from err
    except OSError as err:
        raise StorageError(f"expected to write {target}, found: {err}; free some space or try again") from err
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; at the end all of it is fsynced and renamed, on an error removed.

    A folder that is there already is replaced. A killed process leaves the temporary one, whose name begins with a dot.
    """
    temporary = path.with_name(f".partial-{path.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for written in (*temporary.rglob("*"), temporary):
            _fsync(written)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        _fsync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
