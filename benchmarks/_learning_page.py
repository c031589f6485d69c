"""Writes docs/learning.md from the cached runs of benchmarks/ablation.py."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from _probing import interval
from _table import commit, machine

PAGE = Path(__file__).resolve().parent.parent / "docs" / "learning.md"
FIGURES = ("knn", "linear", "knn_joined", "linear_joined")
HEADS = ("kNN, learned", "linear, learned", "kNN, joined", "linear, joined")


def write_page(cache: Path) -> None:
    """Replace what stands between the markers of docs/learning.md; the prose around them is kept."""
    text = PAGE.read_text(encoding="utf-8")
    for name in ("generated", "jhmdb"):
        path = cache / f"{name}.jsonl"
        if path.is_file():
            tables = _tables([json.loads(line) for line in path.read_text().splitlines()])
            begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
            stamp = (
                f"Measured {datetime.now(UTC).date().isoformat()} at commit {commit()} on {machine()}, "
                f"torch {version('torch')}.\n"
            )
            block = f"{begin}\n{stamp}\n{tables}{end}"
            text = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _m, b=block: b, text, flags=re.S)
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE}")


def _tables(lines: list[dict]) -> str:
    grouped: dict[str, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        grouped[line["table"]][line["label"]].append(line)
    base = grouped["main"].get("SCALE (both)", [])
    out = []
    for table, rows in grouped.items():
        out.append(f"### {'Main comparison' if table == 'main' else table[0].upper() + table[1:]}\n\n")
        out.append(f"| | seeds | {' | '.join(HEADS)} | s a run |\n|{' --- |' * (len(HEADS) + 3)}\n")
        if table not in ("main", "background") and base:
            rows = {"(as in the main comparison)": base, **rows}
        for label, runs in rows.items():
            cells = [interval([run[figure] for run in runs]) for figure in FIGURES]
            seconds = sum(run["seconds"] for run in runs) / len(runs)
            out.append(f"| {label} | {len(runs)} | {' | '.join(cells)} | {seconds:.0f} |\n")
        out.append("\n")
    return "".join(out)
