"""Checking the catalogue: every commit and its copy against their seal, their name, and the commits around them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.errors import CorruptDataError
from pipeline.sets.binding import video_keys
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
    before: Commit | None = None
    stop, is_whole = 0, True
    bad: list[int] = []  # beyond the last commit that holds they are perhaps none of ours
    for number in range(count):
        before = _right(commits, number, before)
        commits.forget(number - 2)
        if before is None:
            bad.append(number)
            continue
        for damaged in bad:
            _check_commit(findings, dataset, damaged, None)
        is_whole, bad = is_whole and not bad, []
        _check_commit(findings, dataset, number, before)
        stop = before.stop
    stray = [number for number in numbers if number >= count - len(bad)]
    for number in stray:
        _check_stray(findings, dataset, number, stop)
    if not is_whole or (stray and not findings.repair):
        return None
    try:
        catalogue = Catalogue(backend, dataset)
        has_twins = _has_twins(catalogue)
    except CorruptDataError as err:
        findings.add("damaged catalogue", schema.catalogue_prefix(dataset), str(err))
        return None
    if has_twins:
        findings.add("damaged catalogue", schema.catalogue_prefix(dataset), "a video id stands in two rows")
    return catalogue


def _has_twins(catalogue: Catalogue) -> bool:
    """Whether a video id stands in two rows; holds 8 bytes a row, and the ids of those whose keys are equal."""

    def ids() -> Iterator[list[str]]:
        for commit in catalogue.commits.stream(columns=["row", "video_id"]):
            yield commit.table["video_id"].to_pylist()

    keys = np.sort(np.concatenate([np.empty(0, np.uint64), *(video_keys(some) for some in ids())]))
    twins = set(keys[1:][keys[1:] == keys[:-1]].tolist())
    if not twins:
        return False
    found = [one for some in ids() for one, key in zip(some, video_keys(some).tolist(), strict=True) if key in twins]
    return len(set(found)) < len(found)


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
