"""Checking the catalogue: every commit and its copy against their seal, their name, and the commits around them."""

from __future__ import annotations

from pipeline.errors import CorruptDataError
from pipeline.storage import schema
from pipeline.storage.locks import exclusive
from pipeline.store.catalogue import Catalogue
from pipeline.store.commits import Commit, Commits, commit_numbers, parse_commit
from pipeline.store.known_rows import known_rows
from pipeline.verify.findings import Findings, read_or_say


def check_catalogue(findings: Findings, dataset: str) -> Catalogue | None:
    """Check all commits, restore one of file and copy from the other; None where the catalogue cannot be read."""
    backend = findings.backend
    numbers = sorted({*commit_numbers(backend, dataset), *commit_numbers(backend, dataset, copies=True)})
    count = next((n for n, number in enumerate(numbers) if n != number), len(numbers))
    commits = Commits(backend, dataset, count)
    right: list[Commit | None] = []
    for number in range(count):
        right.append(_right(commits, number, right[-1] if right else None))
    while right and right[-1] is None:
        right.pop()  # beyond the last commit that holds: perhaps none of ours
    for number, commit in enumerate(right):
        _check_commit(findings, dataset, number, commit)
    stray = [number for number in numbers if number >= len(right)]
    stop = right[-1].stop if right and right[-1] is not None else 0
    for number in stray:
        _check_stray(findings, dataset, number, stop)
    if None in right or (stray and not findings.repair):
        return None
    try:
        catalogue = Catalogue(backend, dataset)
        ids = catalogue.videos["video_id"].to_pylist()
    except CorruptDataError as err:
        findings.add("damaged catalogue", schema.catalogue_prefix(dataset), str(err))
        return None
    if len(set(ids)) != len(ids):
        findings.add("damaged catalogue", schema.catalogue_prefix(dataset), "a video id stands in two rows")
    return catalogue


def _right(commits: Commits, number: int, before: Commit | None) -> Commit | None:
    try:
        return commits.chain_to(number) if number == 0 or before is not None else commits[number]
    except CorruptDataError:
        return None


def _check_commit(findings: Findings, dataset: str, number: int, right: Commit | None) -> None:
    for key in (schema.catalogue_key(dataset, number), schema.catalogue_copy_key(dataset, number)):
        data, why = read_or_say(findings.backend, key)
        if data is None:  # perhaps a writer is between the file and its copy
            with exclusive(findings.backend, schema.catalogue_prefix(dataset)):
                data, why = read_or_say(findings.backend, key)
        if right is not None and data == right.data:
            continue
        if data is not None:
            try:
                parse_commit(data, dataset, number, what=key)
                why = "expected the commit that follows the one before it, found another"
            except CorruptDataError as err:
                why = str(err)
        if right is None:
            findings.add("damaged catalogue", key, f"{why}; there is no good copy, restore it from a backup")
            continue
        fixed = f"restored from its copy{findings.put(key, right.data)}" if findings.repair else ""
        findings.add("damaged catalogue", key, why, fixed)


def _check_stray(findings: Findings, dataset: str, number: int, stop: int) -> None:
    """Name a file beyond the last commit that holds: a stray one, or one before which others are lost."""
    lost = [who for who, known in known_rows(findings.backend, dataset).items() if known > stop]
    for key in (schema.catalogue_key(dataset, number), schema.catalogue_copy_key(dataset, number)):
        data, why = read_or_say(findings.backend, key)
        if data is None and "found none" in why:
            continue
        is_commit = False
        if data is not None:
            try:
                parse_commit(data, dataset, number, what=key)
                is_commit, why = True, f"a whole commit, but there is none before it: expected number {number - 1}"
            except CorruptDataError as err:
                why = str(err)
        if is_commit or lost:
            hint = f" ({lost[0]} knows rows beyond the commits that hold)" if lost else ""
            findings.add("damaged catalogue", key, f"{why}{hint}; restore the catalogue from a backup")
        else:
            findings.add("damaged catalogue", key, why, findings.drop(key) if findings.repair else "")
