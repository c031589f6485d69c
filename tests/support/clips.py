"""Parts of J-HMDB-12 as folders of links, for tests and benchmarks that add videos later."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

Row = dict[str, str]


def read_clips(source: Path) -> list[Row]:
    """Return the rows of a data folder's clips.csv."""
    with (source / "clips.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def link_clips(source: Path, target: Path, rows: Sequence[Row]) -> None:
    """Make (or extend) a data folder that holds these clips alone, as links, with a clips.csv of its own."""
    for row in rows:
        link = target / row["path"]
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to((source / row["path"]).resolve())
    new = target / "clips.csv.new"
    with new.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    new.replace(target / "clips.csv")


def hold_back(rows: Sequence[Row], *, per_class: int) -> list[Row]:
    """Return the rows without the last training clips of each class."""
    left = Counter({row["label"]: per_class for row in rows})
    kept: list[Row] = []
    for row in reversed(rows):
        if row["split1"] == "train" and left[row["label"]] > 0:
            left[row["label"]] -= 1
        else:
            kept.append(row)
    return kept[::-1]
