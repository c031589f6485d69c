"""Faults of the world outside: no memory, no disk, no permission. Each as one of this project's errors, with advice.

What a library raises then has many names; none of them is a fault of this project, and none helps by its own words.
"""

from __future__ import annotations

import errno
import os

from pipeline.errors import (
    InvalidInputError,
    NotFoundError,
    PipelineError,
    ResourceError,
    SetupError,
    StorageError,
)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_ABSENT = {errno.ENOENT, errno.ENOTDIR}
_UNUSABLE = {errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.EINVAL, errno.EEXIST, errno.ENOTEMPTY, errno.EILSEQ}
_USED_UP = {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK}

_MEMORY_WORDS = (
    "can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc",
    "failed to allocate", "malloc of size", "unable to allocate",
)  # fmt: skip
_THREAD_WORDS = ("can't start new thread", "resource temporarily unavailable", "too many open files")
_FULL_WORDS = ("no space left on device", "disk quota exceeded", "file too large", "os error 28", "os error 122")
_MEMORY_NAMES = {"OutOfMemoryError", "OutOfMemoryException", "ArrowMemoryError"}


def from_outside(error: BaseException) -> PipelineError | None:
    """Return the error of this project that says what the world did; None for what may be a fault of the project.

    Parameters
    ----------
    error : BaseException
        As it was caught. An error of this project is returned as it is.
    """
    if isinstance(error, PipelineError):
        return error
    text = _one_line(error)
    lowered = text.lower()
    if isinstance(error, MemoryError) or type(error).__name__ in _MEMORY_NAMES or _any(_MEMORY_WORDS, lowered):
        return ResourceError(
            f"expected enough memory, found none left ({text}); use fewer --workers, a smaller batch_size, a narrower "
            "query, or a machine with more memory, and run again: what is finished is kept"
        )
    number = error.errno if isinstance(error, OSError) else None
    if number in _USED_UP or _any(_THREAD_WORDS, lowered):
        return ResourceError(
            f"expected room for another thread, process or open file, found a limit reached ({text}); use fewer "
            "--workers, or raise the limits of this user (`ulimit -u -n -v`, the container's pids and memory)"
        )
    if number in _FULL or _any(_FULL_WORDS, lowered):
        return StorageError(
            f"expected room on the disk{_where(error)}, found it full ({text}); free some and run again: what is "
            "finished is kept"
        )
    if isinstance(error, OSError):
        return _from_system(error, text)
    if isinstance(error, UnicodeEncodeError):
        return InvalidInputError(f"expected text that UTF-8 can hold, found {ascii(error.object)[:100]}")
    return None


_BY_KIND: tuple[tuple[type[OSError], int], ...] = (
    (FileNotFoundError, errno.ENOENT), (NotADirectoryError, errno.ENOTDIR), (IsADirectoryError, errno.EISDIR),
    (FileExistsError, errno.EEXIST), (PermissionError, errno.EACCES),
)  # fmt: skip


def _number(error: OSError) -> int | None:
    """Return the error's number; that of its kind where a library raised it without one."""
    return (
        error.errno if error.errno is not None else next((n for kind, n in _BY_KIND if isinstance(error, kind)), None)
    )


def _from_system(error: OSError, text: str) -> PipelineError:
    number, reason = _number(error), (error.strerror or text).lower()
    if number in _FORBIDDEN:
        return SetupError(
            f"expected to be allowed to use{_where(error) or ' a file'}, found: {reason}; change its owner or mode, or "
            "name another place"
        )
    if number in _ABSENT:
        return NotFoundError(f"expected a file{_where(error)}, found none ({reason}); check the path")
    if number in _UNUSABLE:
        return InvalidInputError(f"expected a path that can be used, found{_where(error)}: {reason}; name another one")
    return StorageError(
        f"expected to read and write{_where(error) or ' files'}, found: {reason}; look at the disk or network behind it"
    )


def _where(error: BaseException) -> str:
    name = getattr(error, "filename", None)
    if name is None or isinstance(name, int):
        return ""
    shown = os.fsdecode(name) if isinstance(name, bytes) else str(name)
    return f" at {shown if len(shown) <= 200 else shown[:200] + '...'}"


def _any(words: tuple[str, ...], text: str) -> bool:
    return any(word in text for word in words)


def _one_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
