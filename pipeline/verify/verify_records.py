"""Checking what is kept beside the data: records of runs and their copies, the indexes of video ids and of commits."""

from __future__ import annotations

from functools import partial

import numpy as np

from pipeline.errors import CorruptDataError, NotFoundError
from pipeline.sets.binding import video_keys
from pipeline.storage.schema import commit_index_key, id_index_key
from pipeline.storage.sealed import unseal
from pipeline.storage.spare import spare_key
from pipeline.store.catalogue import Catalogue
from pipeline.store.commit_index import COMMIT_INDEX_SCHEMA, commit_index_numbers
from pipeline.store.id_index import IndexFile, Run, index_numbers
from pipeline.store.runs import names_its_place, parse_run, run_keys
from pipeline.verify.described import check_described
from pipeline.verify.findings import Findings, read_or_say


def check_runs(findings: Findings, dataset: str) -> None:
    """Hold every record of a run to its seal, its name and its copy."""
    for key in run_keys(findings.backend, dataset):
        data, _ = read_or_say(findings.backend, key)
        has_copy = findings.backend.exists(spare_key(key)) or (data is not None and names_its_place(data))
        check_described(findings, key, partial(parse_run, key=key), lock=None, copied=has_copy)


def check_indexes(findings: Findings, dataset: str, catalogue: Catalogue) -> None:
    """Hold the indexes to the catalogue, which is read once for all; a repair drops those that say other things."""
    ids = {number: _ids(findings, dataset, number, catalogue) for number in index_numbers(findings.backend, dataset)}
    commits = {
        number: _commits(findings, dataset, number) for number in commit_index_numbers(findings.backend, dataset)
    }
    if not ids and not commits:
        return
    stops: list[int] = []
    sha256s: list[str] = []
    others = set()
    for commit in catalogue.commits.stream(columns=["row", "video_id"]):
        stops.append(commit.stop)
        sha256s.append(commit.digest)
        keys = video_keys(commit.table["video_id"].to_pylist())
        for number, run in ids.items():
            inside = (run.rows >= commit.first_row) & (run.rows < commit.stop)
            if not np.array_equal(run.keys[inside], keys[run.rows[inside] - commit.first_row]):
                others.add(number)
    for number in others:
        _wrong(findings, id_index_key(dataset, number), "names other videos than the catalogue")
    for number, (said_stops, said_sha256s) in commits.items():
        if said_stops != stops[: len(said_stops)] or said_sha256s != sha256s[: len(said_sha256s)]:
            _wrong(findings, commit_index_key(dataset, number), "names other commits than the catalogue has")


def _ids(findings: Findings, dataset: str, number: int, catalogue: Catalogue) -> Run:
    """Return what a file of the index of ids says; nothing where it has been named already."""
    try:
        file = IndexFile(findings.backend, dataset, number)
        run = file.whole
        if file.stop > catalogue.num_rows or not np.array_equal(np.sort(run.rows), np.arange(file.start, file.stop)):
            raise CorruptDataError(f"speaks of rows {file.start}..{file.stop - 1} of {catalogue.num_rows}")
    except (CorruptDataError, NotFoundError) as err:
        _wrong(findings, id_index_key(dataset, number), str(err))
        return Run(np.empty(0, np.uint64), np.empty(0, np.int64))
    return run


def _commits(findings: Findings, dataset: str, number: int) -> tuple[list[int], list[str]]:
    """Return what a file of the index of commits says; nothing where it has been named already."""
    key = commit_index_key(dataset, number)
    try:
        table, metadata = unseal(findings.backend.read(key), COMMIT_INDEX_SCHEMA, what=key)
        if metadata.get("dataset") != dataset:
            raise CorruptDataError(f"is of dataset {metadata.get('dataset')}")
    except (CorruptDataError, NotFoundError) as err:
        _wrong(findings, key, str(err))
        return [], []
    return table["stop"].to_pylist(), table["sha256"].to_pylist()


def _wrong(findings: Findings, key: str, why: str) -> None:
    fixed = f"{findings.drop(key)}; `scale compact` makes it again" if findings.repair else ""
    findings.add("damaged index", key, f"{why}; answers do not depend on it", fixed)
