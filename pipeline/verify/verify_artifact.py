"""Checking one model, index or report: the descriptions of all its versions, their copies, and every file they list."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from pipeline.storage.locks import exclusive
from pipeline.storage.spare import spare_key, spared_keys
from pipeline.store.artifacts import META, OLDER, parse_meta, stored_files
from pipeline.verify.described import check_described
from pipeline.verify.findings import Findings, read_or_say


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
        data = check_described(findings, key, _parser(folder), lock=folder, copied=copied, age=_age(folder))
        if data is not None:
            listed[key] = stored_files(folder, parse_meta(data, folder).files)
        elif not versions and findings.repair:  # nothing says what the files are
            with exclusive(backend, folder):
                for left in there:
                    findings.drop(left)
    return sum(_check_files(findings, folder, key, listed) for key in list(listed))


def _parser(folder: str) -> Callable[[bytes], object]:
    return lambda raw: parse_meta(raw, folder)


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
            fixed = "set aside under _replaced; the next run makes it again"
        where = folder if key.endswith(f"/{META}") else f"{folder}@{key.rpartition('-')[2].removesuffix('.json')}"
        findings.add("damaged artifact", where, "; ".join(f"{file}: {why}" for file, why in bad.items()), fixed)
    return num_bytes
