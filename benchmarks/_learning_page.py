"""Writes docs/learning.md from the recorded runs of benchmarks/ablation.py."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

from _ablation_rows import POOLING, SCALE
from _intervals import Records, accuracy, difference
from _table import machine

PAGE = Path(__file__).resolve().parent.parent / "docs" / "learning.md"
FIGURES = {
    "knn": "kNN, learned",
    "linear": "linear, learned",
    "knn_joined": "kNN, joined",
    "linear_joined": "linear, joined",
}
OWN_DATA = "background"
"""The table whose rows see other data: nothing there is paired with the main comparison."""

Tables = dict[str, dict[str, list[dict]]]


def write_page(folder: Path) -> None:
    """Replace what stands between the markers of docs/learning.md; the prose around them is kept."""
    text = PAGE.read_text(encoding="utf-8")
    for name in ("generated", "jhmdb"):
        path = folder / f"ablation_{name}.jsonl"
        if not path.is_file():
            continue
        records = [json.loads(line) for line in path.read_text().splitlines()]
        tables: Tables = defaultdict(lambda: defaultdict(list))
        for record in records:
            tables[record["table"]][record["label"]].append(record)
        dates = sorted({record["date"] for record in records})
        days = " to ".join(dict.fromkeys((dates[0], dates[-1])))
        stamp = f"{len(records)} runs, {days}, {machine()}, torch {version('torch')}."
        out = [_table(title, rows, tables["main"].get(SCALE, [])) for title, rows in tables.items()]
        if name == "jhmdb" and POOLING in tables["main"]:
            out.insert(1, _against_pooling(tables["main"]))
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        block = f"{begin}\n{stamp}\n\n{''.join(out)}{end}"
        text = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _m, b=block: b, text, flags=re.S)
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE}")


def _table(title: str, rows: dict[str, list[dict]], base: Records) -> str:
    paired = ("knn", "linear") if base and title != OWN_DATA else ()
    heads = ["runs", *FIGURES.values(), *(f"{FIGURES[f]}: to SCALE" for f in paired), "processor s"]
    lines = [f"### {'Main comparison' if title == 'main' else title[0].upper() + title[1:]}\n", _heads(heads)]
    if title not in ("main", OWN_DATA) and base:
        rows = {"(as in the main comparison)": list(base), **rows}
    for label, records in rows.items():
        itself = [r["key"] for r in records] == [r["key"] for r in base]
        seconds = sum(r["processor_s"] for r in records) / len(records)
        cells = [
            str(len(records)),
            *(accuracy(records, figure) for figure in FIGURES),
            *("" if itself else difference(records, base, figure) for figure in paired),
            f"{seconds:.0f}",
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n"


def _against_pooling(rows: dict[str, list[dict]]) -> str:
    lines = ["### Main comparison: to the mean of crops\n", _heads(list(FIGURES.values()))]
    for label, records in rows.items():
        if label != POOLING:
            cells = [difference(records, rows[POOLING], figure) for figure in FIGURES]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n"


def _heads(heads: list[str]) -> str:
    return f"| | {' | '.join(heads)} |\n|{' --- |' * (len(heads) + 1)}"
