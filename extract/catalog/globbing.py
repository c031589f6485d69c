"""Files below a folder by patterns: `*`, `?`, `[..]` and `{a,b}` within a name, `**` over folders, links followed."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from extract.catalog.passed_over import UNFINISHED, PassedOver, is_store
from extract.decoding.image_sequence import is_image_sequence
from pipeline.errors import InvalidInputError, NoDataError

_MAGIC = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{([^{}]*,[^{}]*|\d+\.\.\d+)\}")
MAX_CHOICES = 100_000


def choices_of(pattern: str) -> Iterator[str]:
    """Yield what braces stand for: ``{a,b}`` is a or b, ``{000..123}`` every number, with its zeros.

    Raises
    ------
    InvalidInputError
        If that is more than anybody means.
    """
    todo, count = [pattern], 0
    while todo:
        one = todo.pop()
        braces = _BRACES.search(one)
        if braces is None:
            count += 1
            yield one
            continue
        first, dots, last = braces[1].partition("..")
        if dots and "," not in braces[1]:
            numbers = range(int(first), int(last) + 1)
            if len(numbers) > MAX_CHOICES:
                raise InvalidInputError(f"expected at most {MAX_CHOICES} numbers in {braces[0]}, found {len(numbers)}")
            choices = [str(number).zfill(len(first)) for number in numbers]
        else:
            choices = braces[1].split(",")
        if count + len(todo) + len(choices) > MAX_CHOICES:
            raise InvalidInputError(f"expected at most {MAX_CHOICES} choices in {pattern!r}, found more")
        todo += [one[: braces.start()] + choice + one[braces.end() :] for choice in reversed(choices)]


def split_absolute(root: Path, pattern: str) -> tuple[Path, str]:
    """Return the folder that a pattern starts from, and the pattern from there."""
    path = PurePosixPath(pattern)
    if not path.is_absolute():
        return root, path.as_posix()
    return Path("/"), path.relative_to("/").as_posix()


def glob(base: Path, pattern: str, passed: PassedOver) -> Iterator[Path]:
    """Match one pattern: ``*``, ``?``, ``[..]`` within a name, ``**`` over folders, links followed."""
    for path in _match(base, pattern.split("/"), (), passed):
        if not os.path.isdir(path) or is_image_sequence(path):
            yield path
        elif pattern.rsplit("/", 1)[-1] not in ("*", "**"):
            yield path  # a folder named like a video: a row that says so


def _match(folder: Path, parts: list[str], above: tuple[tuple[int, int], ...], passed: PassedOver) -> Iterator[Path]:
    head, rest = parts[0], parts[1:]
    if head == "**":
        yield from _match(folder, rest or ["*"], above, passed)
        for entry in _entries(folder):
            if _is_dir(entry) and is_store(Path(entry.path)):
                passed.add("a feature store below the data folder", folder / entry.name)
                continue
            if not entry.name.startswith(".") and _is_dir(entry):
                stat = entry.stat()
                identity = (stat.st_dev, stat.st_ino)
                if identity not in above:  # a link back to a folder above would never end
                    yield from _match(folder / entry.name, parts, (*above, identity), passed)
        return
    if not _MAGIC.search(head):
        path = folder / head
        if rest and os.path.isdir(path):
            yield from _match(path, rest, above, passed)
        elif not rest and os.path.lexists(path):
            yield path
        return
    for entry in _entries(folder):
        is_hidden = entry.name.startswith(".") and not head.startswith(".")
        if (fnmatch.fnmatchcase(entry.name, head) or entry.name == head) and not is_hidden:
            if rest:
                if _is_dir(entry):
                    yield from _match(folder / entry.name, rest, above, passed)
            elif entry.name.lower().endswith(UNFINISHED) and not head.lower().endswith(UNFINISHED):
                passed.add("an unfinished download", folder / entry.name)
            elif is_store(folder / entry.name):
                passed.add("a feature store below the data folder", folder / entry.name)
            else:
                yield folder / entry.name
        elif not rest and not is_hidden and fnmatch.fnmatchcase(entry.name.lower(), head.lower()):
            passed.add("a name that differs from the pattern in upper and lower case", folder / entry.name)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder; a link that leads round in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return []
        raise NoDataError(f"expected to list the folder {folder}, found: {(error.strerror or '').lower()}") from None


def why_nothing(root: Path, patterns: list[str]) -> str:
    """Say where was looked for what, and what is there instead."""
    there: dict[str, int] = {}
    for number, path in enumerate(_match(root, ["**"], (), PassedOver())):
        if number >= 10_000:
            break
        if not os.path.isdir(path):
            suffix = path.suffix or "(no suffix)"
            there[suffix] = there.get(suffix, 0) + 1
    kinds = ", ".join(f"{count} x {suffix}" for suffix, count in sorted(there.items(), key=lambda i: -i[1])[:6])
    return (
        f"expected videos that match {' or '.join(patterns)} below {root}, found none "
        f"({'it holds ' + kinds if kinds else 'the folder holds no files'}); change `videos` in the recipe, or --data"
    )
