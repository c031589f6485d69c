"""Text of strangers, made safe to show: file names, values and error texts may hold what a terminal would obey."""

from __future__ import annotations

import re

_ORDERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line feed; 0x9b alone begins a sequence, too
    "\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"  # what turns the direction of reading, or breaks lines
    "\ud800-\udfff]"  # bytes of a file name that are no UTF-8
)
_BREAKS = re.compile("[\t\n]")


def printable(text: str) -> str:
    r"""Return `text` with every character that a terminal would obey instead of showing written out, as ``\x1b``."""
    return _ORDERS.sub(_escaped, text)


def on_one_line(text: str) -> str:
    r"""Return :func:`printable` text with line feeds and tabs written out, too: a cell of a table, a log line."""
    return _BREAKS.sub(_escaped, printable(text))


def json_printable(text: str) -> str:
    r"""Return JSON that says the same and is safe to show: such characters as ``\u001b``."""
    return _ORDERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
