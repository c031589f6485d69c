"""Checking what is kept beside the data: records of runs and their copies, and the index of video ids."""

from __future__ import annotations

from functools import partial

import numpy as np

from pipeline.errors import CorruptDataError, NotFoundError
from pipeline.sets.binding import video_keys
from pipeline.storage.schema import id_index_key
from pipeline.storage.spare import spare_key
from pipeline.store.catalogue import Catalogue
from pipeline.store.id_index import IndexFile, index_numbers
from pipeline.store.runs import names_its_place, parse_run, run_keys
from pipeline.verify.described import check_described
from pipeline.verify.findings import Findings, read_or_say


def check_runs(findings: Findings, dataset: str) -> None:
    """Hold every record of a run to its seal, its name and its copy."""
    for key in run_keys(findings.backend, dataset):
        data, _ = read_or_say(findings.backend, key)
        has_copy = findings.backend.exists(spare_key(key)) or (data is not None and names_its_place(data))
        check_described(findings, key, partial(parse_run, key=key), lock=None, copied=has_copy)


def check_id_index(findings: Findings, dataset: str, catalogue: Catalogue) -> None:
    """Hold the index to the catalogue: what it says of a row must be the key of the video there. A repair drops it."""
    for number in index_numbers(findings.backend, dataset):
        why = ""
        try:
            file = IndexFile(findings.backend, dataset, number)
            run = file.whole
            if file.stop > catalogue.num_rows or not np.array_equal(
                np.sort(run.rows), np.arange(file.start, file.stop)
            ):
                why = f"speaks of rows {file.start}..{file.stop - 1}, the catalogue has {catalogue.num_rows}"
            else:
                ids = catalogue.part(file.start, file.stop)["video_id"].to_pylist()
                if not np.array_equal(run.keys, video_keys(ids)[run.rows - file.start]):
                    why = "names other videos than the catalogue"
        except (CorruptDataError, NotFoundError) as err:
            why = str(err)
        if why:
            key = id_index_key(dataset, number)
            fixed = f"{findings.drop(key)}; `scale compact` makes it again" if findings.repair else ""
            findings.add("damaged index", key, f"{why}; answers do not depend on it", fixed)
