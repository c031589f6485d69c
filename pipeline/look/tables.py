"""Tables as text: Markdown for artifacts and results, columns for a terminal that has no table of its own.

Pages have `templates/table.html.j2`; the terminal of the command line has `print_table` (:mod:`flows.cli.console`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any


def markdown_table(rows: Sequence[Mapping[str, Any]], *, max_rows: int | None = None) -> str:
    """Return a Markdown table of mappings that share their keys; past `max_rows` a count stands for the rest."""
    if not rows:
        return "nothing\n"
    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |", "|" + " --- |" * len(keys)]
    lines += ["| " + " | ".join(escape(row.get(key, "")) for key in keys) + " |" for row in rows[:max_rows]]
    if max_rows is not None and len(rows) > max_rows:
        lines.append(f"\n... and {len(rows) - max_rows} more")
    return "\n".join(lines) + "\n"


def escape(value: object) -> str:
    """Return text that Markdown and HTML show as it is: labels, paths and error texts are untrusted."""
    text = str(value).replace("\n", " ").replace("\r", " ")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|])", r"\\\1", text)


def column_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of plain text whose columns stand below each other."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)]
