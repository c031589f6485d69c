"""What files and stores say is shown on a terminal, never obeyed by it."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cli.console import _SafeConsole
from pipeline.printable import json_printable, on_one_line, printable

CLIPBOARD = "\x1b]52;c;cm0gLXJmIC8=\x07"
BAD = set(map(chr, [*range(9), *range(11, 32), *range(127, 160), 0x202E, 0x2066, 0xD800])) - {"\t", "\n"}


@pytest.mark.parametrize("text", [CLIPBOARD, "\x9b31m", "a\rb", "\u202egpj.exe", "na\udcd3me", "\x00", "\x7f"])
def test_orders_to_a_terminal_are_written_out(text: str) -> None:
    shown = printable(text)
    assert not BAD & set(shown)
    assert "\\" in shown
    shown.encode()


@pytest.mark.parametrize("text", ["Größe 5 µm", "日本語", "a\tb\nc", "emoji 🎬", "x\\y"])
def test_what_is_only_text_stays(text: str) -> None:
    assert printable(text) == text


def test_a_line_stays_a_line() -> None:
    assert on_one_line("a\nb\tc") == "a\\nb\\tc"


@given(st.text())
def test_json_says_the_same_and_holds_no_order(text: str) -> None:
    written = json_printable(json.dumps({"x": text}, ensure_ascii=False))
    assert json.loads(written) == {"x": text}
    assert not BAD & set(written)


def test_a_console_escapes_what_it_is_given_and_keeps_its_own_colours() -> None:
    sink = io.StringIO()
    console = _SafeConsole(file=sink, force_terminal=True, color_system="standard", width=200, highlight=False)
    console.print(f"name {CLIPBOARD} end", style="bold red", markup=False)
    shown = sink.getvalue()
    assert "\x1b]52" not in shown
    assert "\\x1b]52" in shown
    assert shown.startswith("\x1b[1;31m")  # its own
