"""Making the two indexes of a catalogue, of its commits and of its ids: at any time, beside readers and writers."""

from __future__ import annotations

import numpy as np

from pipeline.sets.binding import video_keys
from pipeline.storage.backend import StorageBackend
from pipeline.store.catalogue import Catalogue
from pipeline.store.commit_index import MIN_COMMITS, CommitIndex, write_commit_index
from pipeline.store.id_index import MAX_INDEX_ROWS, ROWS_PER_GROUP, Run, drop_index, open_index, write_index

MIN_IDS = 4096
"""Fewer new ids are scanned faster than they are indexed."""
COMMITS_BETWEEN = 16
"""Appends that pass before one of them makes the indexes."""


def index_when_due(backend: StorageBackend, dataset: str, num_commits: int) -> None:
    """Make both indexes after every COMMITS_BETWEENth append, so that nobody has to think of it."""
    if num_commits % COMMITS_BETWEEN == 0:
        index_commits(backend, dataset)
        index_ids(backend, dataset)


def index_commits(backend: StorageBackend, dataset: str, *, min_commits: int = MIN_COMMITS) -> int:
    """Name the commits that no index names in a new one; return how many were new."""
    commits = Catalogue(backend, dataset).commits
    old = commits.index
    if commits.count - len(old) < max(min_commits, 1):
        return 0
    new = [(commit.stop, commit.digest) for commit in commits.stream(len(old), ["row"])]
    stops = np.concatenate([old.stops, np.array([stop for stop, _ in new], np.int64)])
    write_commit_index(backend, dataset, CommitIndex(stops, old.sha256s + [digest for _, digest in new]))
    return commits.count - len(old)


def index_ids(
    backend: StorageBackend,
    dataset: str,
    *,
    min_ids: int = MIN_IDS,
    max_rows: int = MAX_INDEX_ROWS,
    rows_per_group: int = ROWS_PER_GROUP,
) -> int:
    """Put the ids that no index knows into one, with smaller index files; return how many were new."""
    catalogue = Catalogue(backend, dataset)
    files = open_index(backend, dataset)
    start = files[-1].stop if files else 0
    if catalogue.num_rows - start < max(min_ids, 1):
        return 0
    num_new = catalogue.num_rows - start
    runs: list[Run] = []
    row = start
    for number in range(catalogue.commits.holding(start), catalogue.num_commits):
        commit = catalogue.commits.passing(number)
        ids = commit.table["video_id"].slice(row - commit.first_row)
        runs.append(Run.of(video_keys(ids.to_pylist()), row))
        row = commit.stop
        if sum(len(run.keys) for run in runs) >= max_rows:
            write_index(backend, dataset, Run.merged(runs), start, rows_per_group=rows_per_group)
            runs, start, files = [], row, []
    while files and runs:
        size, more = row - start, files[-1].stop - files[-1].start
        if more > 2 * size or size + more > max_rows:
            break
        merged = files.pop()
        runs.append(merged.whole)
        start = merged.start
    if runs:
        write_index(backend, dataset, Run.merged(runs), start, rows_per_group=rows_per_group)
    drop_index(backend, dataset, but=[file.number for file in open_index(backend, dataset)])
    return num_new
