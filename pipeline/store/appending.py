"""Adding to a catalogue only where the rest of the dataset agrees with it about how many videos there are."""

from __future__ import annotations

import pyarrow as pa

from pipeline.storage.backend import StorageBackend
from pipeline.storage.litter import sweep
from pipeline.storage.schema import catalogue_prefix
from pipeline.store.catalogue import AppendedVideos, Catalogue
from pipeline.store.commits import mend_commits
from pipeline.store.indexing import index_when_due
from pipeline.store.known_rows import known_rows
from pipeline.store.video_rows import VideoRows


def append_videos(
    backend: StorageBackend, dataset: str, pinned: Catalogue, table: pa.Table
) -> tuple[Catalogue, AppendedVideos]:
    """Add videos; see :meth:`Dataset.append_videos`.

    Parameters
    ----------
    pinned : Catalogue
        What the caller has seen; the present one must not end before it.
    """
    known = {"this handle": pinned.num_rows, **known_rows(backend, dataset)}
    present = mended_catalogue(backend, dataset)
    present.take_over(pinned)
    rows = VideoRows(backend, dataset, present)
    for who, stop in known.items():
        rows.check_inside(stop, who)
    after, appended = present.append(table)
    if appended.num_new:
        index_when_due(backend, dataset, after.num_commits)
    return after, appended


def mended_catalogue(backend: StorageBackend, dataset: str) -> Catalogue:
    """Return the catalogue as it stands now, for a writer: a file or copy that a dead writer left out is written."""
    mend_commits(backend, dataset)
    for folder in ("", dataset, catalogue_prefix(dataset)):
        sweep(backend, folder, recursive=False)
    return Catalogue(backend, dataset)
