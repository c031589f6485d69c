"""What is known of one video: catalogue, statuses, crops, predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.serve.answers import check_row, is_true, once, status_table
from flows.serve.stores import HeldDataset
from pipeline.errors import PipelineError
from pipeline.query.holdings import feature_pairs
from pipeline.storage.parquet import read_parquet
from pipeline.storage.schema import GEOMETRY_COLUMNS


def video_facts(held: HeldDataset, row: int) -> dict[str, Any]:
    """Return all that is known of one video: catalogue, statuses, duplicates.

    Raises
    ------
    NotFoundError
        If there is no such row.
    """
    check_row(held, row)
    videos = held.videos
    record = videos.slice(row, 1).to_pylist()[0]
    states = []
    for crops, name in feature_pairs(held.dataset):
        states.append({"set": f"{crops}/{name}", **status_table(held, crops, name).slice(row, 1).to_pylist()[0]})
    twins: list[str] = []
    if record.get("sha256"):
        same = np.flatnonzero(is_true(pc.equal(videos["sha256"], record["sha256"])))
        twins = [videos["video_id"][int(r)].as_py() for r in same[:20] if r != row]
    return {"video": record, "statuses": states, "duplicates": twins}


def video_crops(held: HeldDataset, row: int) -> dict[str, list[dict[str, Any]]]:
    """Return the boxes of a video: crop set -> one mapping a drawn crop, in raw units, with `valid`."""
    found: dict[str, list[dict[str, Any]]] = {}
    for crops, name in feature_pairs(held.dataset):
        if found.get(crops):
            continue
        try:
            block = held.dataset.select(rows=[row]).features(crops, name)
        except PipelineError:
            continue
        boxes = np.asarray(block.geometry[0], np.float64)
        drawn = np.flatnonzero(boxes[:, 1] > boxes[:, 0])
        found[crops] = [
            {"crop": int(c), "valid": bool(block.valid[0, c]),
             **{k: float(v) for k, v in zip(GEOMETRY_COLUMNS, boxes[c], strict=True)}}
            for c in drawn
        ]  # fmt: skip
    return {name: crops for name, crops in found.items() if crops}


def predictions_of(held: HeldDataset, row: int) -> list[dict[str, Any]]:
    """Return what each stored report took a video for: report, result, predicted, correct."""
    found = []
    for report in held.dataset.artifacts("reports"):
        try:
            table = predictions_table(held, report)
        except PipelineError:
            continue
        mine = table.filter(pc.equal(table["row"], row))
        found += [{"report": report, **line} for line in mine.select(["result", "predicted", "correct"]).to_pylist()]
    return found


def predictions_table(held: HeldDataset, report: str) -> pa.Table:
    """Return the outcome of every test row of a report."""

    def read() -> pa.Table:
        return read_parquet(held.dataset.artifact("reports", report).read("predictions.parquet"))

    return once(held, ("predictions", report), read)
