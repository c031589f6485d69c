"""Checking one model, index or report: the descriptions of all its versions, their copies, and every file they list."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable

from pipeline.errors import CorruptDataError, NotFoundError
from pipeline.storage.locks import exclusive
from pipeline.storage.spare import spare_key, spared_keys
from pipeline.store.descriptions import (
    META,
    OLDER,
    Description,
    older_digests,
    parse_meta,
    read_meta,
    stored_files,
    write_meta,
)
from pipeline.verify.described import check_described
from pipeline.verify.findings import Findings, read_or_say

_STORED = re.compile(r"-[0-9a-f]{12}(\.[^/]*)?\Z")
"""A name that only this project gives: it carries its content's hash."""


def check_artifact(findings: Findings, folder: str, *, copied: bool) -> int:
    """Check an artifact; a version that cannot be restored is set aside, so that the next run makes it again.

    Returns
    -------
    int
        Bytes that were checked.
    """
    backend = findings.backend
    there = [key for key, _ in backend.list(folder) if "_lock/" not in key]
    spared = [key for key in spared_keys(backend, folder.partition("/")[0]) if key.startswith(f"{folder}/")]
    if not there:
        for key in spared:
            fixed = f"{findings.drop(spare_key(key))}; the next run makes it again" if findings.repair else ""
            findings.add("damaged artifact", folder, "only the copy of a description is left", fixed)
        return 0
    names = {key.removeprefix(f"{folder}/") for key in (*there, *spared)}
    versions = sorted((name for name in names if OLDER.match(name)), key=len)
    newest = [META] if META in names or not versions else []
    listed: dict[str, dict[str, str]] = {}
    for name in (*newest, *versions):
        key = f"{folder}/{name}"
        data = check_described(findings, key, _parser(folder, name), lock=folder, copied=copied, age=_age(folder))
        if data is not None:
            listed[key] = stored_files(folder, parse_meta(data, folder).files)
        elif not versions and findings.repair:  # nothing says what the files are
            with exclusive(backend, folder):
                for left in there:
                    findings.drop(left)
    _check_versions(findings, folder, list(listed))
    num_bytes = sum(_check_files(findings, folder, key, listed) for key in list(listed))
    _check_strays(findings, folder)
    return num_bytes


def _described(findings: Findings, folder: str, name: str) -> tuple[bytes, Description] | None:
    try:
        match = OLDER.match(name)
        number = int(match[1]) if match else None
        return read_meta(findings.backend, folder, number)
    except (NotFoundError, CorruptDataError):
        return None


def _check_versions(findings: Findings, folder: str, keys: list[str]) -> None:
    """Hold the older descriptions to what the newest says of them: none is missing, changed or newer than it."""
    found = _described(findings, folder, META)
    if found is None:
        return
    newest = found[1]
    numbers = {int(match[1]) for key in keys if (match := OLDER.match(key.removeprefix(f"{folder}/")))}
    later = [number for number in numbers if number >= newest.version]
    if later:
        what = f"version {newest.version}, beside the description of version {max(later)}: an older one was put back"
        findings.add("damaged artifact", f"{folder}/{META}", what, _promote(findings, folder, max(later)))
        return  # which the next check holds to what that one says
    if newest.older is None:
        return
    for number in sorted(numbers | {int(n) for n in newest.older}):
        kept = _described(findings, folder, f"meta-{number}.json")
        expected = newest.older.get(str(number))
        if kept is not None and expected == hashlib.sha256(kept[0]).hexdigest():
            continue
        if kept is None:
            what = "expected the description of an older version, found neither file nor copy"
        elif expected is None:
            what = "the description of a version that the newest does not name: pruned, and put back?"
        else:
            what = "not the description that the newest names: one of another time was put there"
        fixed = _forget(findings, folder, number) if findings.repair else ""
        findings.add("damaged artifact", f"{folder}@{number}", what, fixed)


def _promote(findings: Findings, folder: str, number: int) -> str:
    """Let the name stand for the highest version that is left."""
    older = _described(findings, folder, f"meta-{number}.json")
    if not findings.repair or older is None:
        return ""
    with exclusive(findings.backend, folder):
        for key in (f"{folder}/{META}", spare_key(f"{folder}/{META}")):
            findings.put(key, older[0])
        for key in (f"{folder}/meta-{number}.json", spare_key(f"{folder}/meta-{number}.json")):
            findings.drop(key)
    return f"the name stands for version {number}; later ones are lost, the next run makes them again"


def _forget(findings: Findings, folder: str, number: int) -> str:
    """Set an older description aside, and let the newest name those that are left."""
    with exclusive(findings.backend, folder):
        key = f"{folder}/meta-{number}.json"
        for place in (key, spare_key(key)):
            findings.drop(place)
        newest = _described(findings, folder, META)
        if newest is not None:
            body = json.loads(newest[0])
            body["older"] = older_digests(findings.backend, folder)
            write_meta(findings.backend, folder, body)
    return "set aside under _replaced, and named no more"


def _check_strays(findings: Findings, folder: str) -> None:
    """Name files that no version lists: of a writer that was killed, or of a version whose description is gone."""
    with exclusive(findings.backend, folder):
        there = [key for key, _ in findings.backend.list(folder) if "_lock/" not in key]
        names = [name for key in there if OLDER.match(name := key.removeprefix(f"{folder}/")) or name == META]
        described = [_described(findings, folder, name) for name in names]
        if not described or None in described:
            return  # said already; nothing may be called a stray
        listed = {file for one in described if one is not None for file in stored_files(folder, one[1].files)}
        for key in there:
            if key not in listed and _STORED.search(key):
                fixed = findings.drop(key) if findings.repair else ""
                findings.add("orphan", key, "a file that no version lists: its writer was killed, or it is lost", fixed)


def _parser(folder: str, name: str) -> Callable[[bytes], object]:
    match = OLDER.match(name)
    return lambda raw: parse_meta(raw, folder, int(match[1]) if match else None)


def _age(folder: str) -> Callable[[bytes], str]:
    def age(raw: bytes) -> str:
        described = parse_meta(raw, folder)
        return f"{described.version:012d} {described.saved_at}"

    return age


def _check_files(findings: Findings, folder: str, key: str, listed: dict[str, dict[str, str]]) -> int:
    """Check the files of one version; return their bytes."""
    num_bytes = 0
    bad = {}
    for file, digest in listed[key].items():
        content, why = read_or_say(findings.backend, file)
        num_bytes += len(content or b"")
        if content is None or hashlib.sha256(content).hexdigest() != digest:
            bad[file] = why or "bytes differ from what was written"
    if bad:
        fixed = ""
        if findings.repair:
            others = {file for other, files in listed.items() if other != key for file in files}
            with exclusive(findings.backend, folder):
                for file in (*(set(listed[key]) - others), *bad, key, spare_key(key)):
                    findings.drop(file)
            if match := OLDER.match(key.removeprefix(f"{folder}/")):
                _forget(findings, folder, int(match[1]))
            fixed = "set aside under _replaced; the next run makes it again"
        where = folder if key.endswith(f"/{META}") else f"{folder}@{key.rpartition('-')[2].removesuffix('.json')}"
        findings.add("damaged artifact", where, "; ".join(f"{file}: {why}" for file, why in bad.items()), fixed)
    return num_bytes
