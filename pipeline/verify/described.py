"""Small metadata and its copy: each is held to its seal and its place, and to the other."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.errors import FormatError, InvalidInputError
from pipeline.storage.locks import exclusive
from pipeline.storage.spare import spare_key
from pipeline.verify.findings import Findings, read_or_say

Parse = Callable[[bytes], object]


def check_described(
    findings: Findings,
    key: str,
    parse: Parse,
    *,
    lock: str | None,
    copied: bool,
    age: Callable[[bytes], str] = lambda data: "",
) -> bytes | None:
    """Check a file and its copy; restore one from the other. Return the right bytes, None where there are none.

    Parameters
    ----------
    parse : callable
        Raises where bytes are not what was written there.
    lock : str or None
        Folder whose lock writers of the file hold; taken before anything is called wrong.
    copied : bool
        Whether there is to be a copy; stores of schema 1 have none.
    age : callable
        What grows with every replacement: of two whole ones that differ the greater counts (the file, where equal).
    """
    right, wrong = _judge(findings, key, parse, copied, age)
    if not wrong:
        return right
    if lock is None:
        return _mend(findings, key, right, wrong)
    with exclusive(findings.backend, lock):
        return _mend(findings, key, *_judge(findings, key, parse, copied, age))


def _judge(
    findings: Findings, key: str, parse: Parse, copied: bool, age: Callable[[bytes], str]
) -> tuple[bytes | None, dict[str, str]]:
    """Return the right bytes, and of each place that does not hold them what is wrong with it."""
    good: dict[str, bytes] = {}
    wrong: dict[str, str] = {}
    for place in (key, spare_key(key)) if copied else (key,):
        data, why = read_or_say(findings.backend, place)
        if data is not None:
            try:
                parse(data)
                good[place] = data
            except (FormatError, InvalidInputError) as err:
                why = str(err)
        if why:
            wrong[place] = why
    right = max(good.values(), key=age) if good else None  # the first of equals: the file
    for place, data in good.items():
        if data != right:
            wrong[place] = "whole, but not what was written last: an older version was put back, or a writer was killed"
    return right, wrong


def _mend(findings: Findings, key: str, right: bytes | None, wrong: dict[str, str]) -> bytes | None:
    for place, why in wrong.items():
        kind = "damaged metadata" if place == key else "damaged copy"
        if right is None:
            if place != key and "found none" in why:
                continue  # named once, by the file
            fixed = f"{findings.drop(place)}; the next run makes it again" if findings.repair else ""
            findings.add(kind, place, f"{why}; there is no good copy", fixed)
            continue
        fixed = f"put back{findings.put(place, right)}" if findings.repair else ""
        findings.add(kind, place, why, fixed)
    return right
