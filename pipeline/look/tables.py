"""Tables as text: Markdown for artifacts and results, columns for a terminal that has no table of its own.

Pages have `templates/table.html.j2`; the terminal of the command line has `print_table` (:mod:`flows.cli.console`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any


def markdown_table(lines: Sequence[Mapping[str, Any]], *, max_lines: int | None = None) -> str:
    """Return a Markdown table of mappings that share their keys; past `max_lines` a count stands for the rest."""
    if not lines:
        return "nothing\n"
    keys = list(lines[0])
    text = ["| " + " | ".join(keys) + " |", "|" + " --- |" * len(keys)]
    text += ["| " + " | ".join(escape(line.get(key, "")) for key in keys) + " |" for line in lines[:max_lines]]
    if max_lines is not None and len(lines) > max_lines:
        text.append(f"\n... and {len(lines) - max_lines} more")
    return "\n".join(text) + "\n"


def escape(value: object) -> str:
    """Return text that Markdown and HTML show as it is: labels, paths and error texts are untrusted."""
    text = str(value).replace("\n", " ").replace("\r", " ")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|])", r"\\\1", text)


def column_lines(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of plain text whose columns stand below each other."""
    widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]
    both = (header, *lines)
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in both]
