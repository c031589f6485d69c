"""What the points of a map are coloured by: label, split, or right and wrong in a report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.serve import one_video
from flows.serve.stores import HeldDataset
from probe.flat_map import FlatMap

NONE = "–"
OTHER = "others"
MAX_GROUPS = 60
"""Groups with a name of their own in the legend; the rest shares one."""


@dataclass(frozen=True)
class PointGroup:
    """Points of one colour, as a page draws them: one path, a dot a point, and whose each is."""

    name: str
    count: int
    path: str
    """Dots as strokes without length, in map units; y downwards."""
    rows: str
    """Row numbers in the order of the dots, comma-separated."""


def coloured(held: HeldDataset, made: FlatMap, colour: str) -> list[PointGroup]:
    """Return the points by colour, most frequent first; videos that were removed since are left out."""
    there = made.rows < held.dataset.num_rows
    there[there] = held.present[made.rows[there]]
    rows, points = made.rows[there], made.points[there]
    names = _names(held, rows, colour)
    known, inverse, counts = np.unique(names, return_inverse=True, return_counts=True)
    order = np.lexsort((known, -counts))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.minimum(np.arange(len(order)), MAX_GROUPS)
    group = rank[inverse]
    titles = [str(known[i]) for i in order[:MAX_GROUPS]] + [OTHER] * (len(order) > MAX_GROUPS)
    return [_group(title, rows[group == i], points[group == i]) for i, title in enumerate(titles)]


def _group(name: str, rows: np.ndarray, points: np.ndarray) -> PointGroup:
    path = "".join(f"M{x:.3f} {-y:.3f}h0" for x, y in points.tolist())
    return PointGroup(name, len(rows), path, ",".join(map(str, rows.tolist())))


def _names(held: HeldDataset, rows: np.ndarray, colour: str) -> np.ndarray:
    if colour.startswith("split "):
        found = pc.map_lookup(held.videos["splits"].take(pa.array(rows)), colour.removeprefix("split "), "first")
        return np.array([name or NONE for name in found.to_pylist()], dtype=np.str_)
    if colour.startswith("report "):
        right = _right_and_wrong(held, colour.removeprefix("report "))
        return np.array([right.get(row, NONE) for row in rows.tolist()], dtype=np.str_)
    labels = held.videos["label"].take(pa.array(rows)).to_pylist()
    return np.array([label or NONE for label in labels], dtype=np.str_)


def _right_and_wrong(held: HeldDataset, report: str) -> dict[int, str]:
    """Return what the first result of a report says of each of its test rows."""
    table = one_video.predictions_table(held, report)
    lines = table.select(["result", "row", "correct"]).to_pylist()
    first = [line for line in lines if line["result"] == lines[0]["result"]]
    return {line["row"]: "right" if line["correct"] else "wrong" for line in first}
