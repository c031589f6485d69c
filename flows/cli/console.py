"""Events and results as text on a terminal: progress on stderr, results on stdout."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from flows.artifacts import probe_lines
from flows.heartbeat import Pulse, shown_values, speed, without_stage
from pipeline import events
from pipeline.printable import json_printable, on_one_line, printable

WIDTH_OF_PIPES = 180
"""Columns of a table that goes to a file or another program."""


class _SafeConsole(Console):
    """The one place where text meets a terminal: what came from files and stores is shown there, never obeyed."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Write out the control characters in every piece of text; those that rich itself sends are marked as such."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


def _console(*, stderr: bool) -> Console:
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return _SafeConsole(stderr=stderr, highlight=False, width=None if is_terminal else WIDTH_OF_PIPES)


out = _console(stderr=False)
err = _console(stderr=True)

MAX_FAILURES_SHOWN = 5


class EventPrinter:
    """Show the events of a run: a bar with rate and time left on a terminal; elsewhere a line a stage and a minute.

    Use as a context manager, and pass it as ``on_event``.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._is_terminal = err.is_terminal
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.fields[stage]:8}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[values]}"),
            console=err,
            disable=quiet or not self._is_terminal,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._failures: Counter[str] = Counter()
        self._pulse = Pulse(lambda stage, line: err.print(f"{stage:8} {line}", markup=False))

    def __enter__(self) -> EventPrinter:
        self._progress.start()
        if self._says_lines:
            self._pulse.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()
        if self._says_lines:
            self._pulse.__exit__()

    @property
    def _says_lines(self) -> bool:
        return not self._quiet and not self._is_terminal

    def __call__(self, event: events.Event) -> None:
        """Show one event."""
        if self._quiet:
            return
        if isinstance(event, events.StageStarted):
            self._start(event)
        elif isinstance(event, events.Progress):
            self._advance(event)
        elif isinstance(event, events.VideoFailed):
            self._fail(event)
        elif isinstance(event, events.Note):
            style = "yellow" if event.level == "warning" else "dim"
            err.print(f"{event.stage:8} {without_stage(event.stage, event.text)}", style=style, markup=False)
        elif isinstance(event, events.StageFinished):
            self._finish(event)

    def _start(self, event: events.StageStarted) -> None:
        self._failures.clear()
        if self._is_terminal:
            self._tasks[event.stage] = self._progress.add_task(
                event.detail, total=event.total, stage=event.stage, unit=event.unit, values="", rate=""
            )
        else:
            self._pulse.start(event)  # a log has one line a stage, at its end, and the beats between

    def _advance(self, event: events.Progress) -> None:
        task_id = self._tasks.get(event.stage)
        if task_id is None:
            if self._says_lines:
                self._pulse.progress(event)
            return
        values = "  ".join(f"{name} {value:.4g}" for name, value in shown_values(event).items())
        found = self._progress.tasks[self._progress.task_ids.index(task_id)].speed
        rate = speed(found) if found else ""
        self._progress.update(task_id, completed=event.done, total=event.total, values=values, rate=rate)

    def _fail(self, event: events.VideoFailed) -> None:
        self._failures[event.status] += 1
        if sum(self._failures.values()) <= MAX_FAILURES_SHOWN:
            err.print(f"{event.stage:8} {event.video_id}: {event.reason}", style="yellow", markup=False)
        elif sum(self._failures.values()) == MAX_FAILURES_SHOWN + 1:
            err.print(f"{event.stage:8} ... more videos with a status; `scale status STORE` lists them", style="yellow")

    def _finish(self, event: events.StageFinished) -> None:
        self._pulse.finish()
        task_id = self._tasks.pop(event.stage, None)
        if task_id is not None:
            self._progress.remove_task(task_id)
        err.print(f"[green]✓[/] {event.stage:8}", end=" ")
        err.print(f"{without_stage(event.stage, event.summary)} ({event.seconds:.1f} s)", markup=False)


def print_table(lines: Iterable[Mapping[str, object]], *, title: str | None = None, empty: str = "nothing") -> None:
    """Print mappings that share their keys as a table on stdout."""
    listed = list(lines)
    if not listed:
        out.print(f"{title}: {empty}" if title else empty, markup=False)
        return
    if title:
        out.print(title, style="bold", markup=False)  # not the table's: that is wrapped to the table's width
    table = Table(header_style="bold", box=None, pad_edge=False)
    for key in listed[0]:
        is_number = all(isinstance(line.get(key), int | float) for line in listed)
        table.add_column(Text(on_one_line(str(key))), justify="right" if is_number else "left", overflow="fold")
    for line in listed:
        table.add_row(*(_cell(line.get(key)) for key in listed[0]))
    out.print(table)


def print_records(lines: Iterable[Mapping[str, object]]) -> None:
    """Print mappings one below the other, a line a value: for tables that are wider than the terminal."""
    for number, line in enumerate(lines):
        table = Table(header_style="bold", box=None, pad_edge=False, show_header=False)
        table.add_column(style="dim")
        table.add_column(overflow="fold")
        for key, value in line.items():
            table.add_row(Text(on_one_line(key)), _cell(value))
        out.print(f"- {number}", style="bold")
        out.print(table)


def print_probes(probes: Sequence[Mapping[str, Any]]) -> None:
    """Print probe results with their intervals and coverage."""
    lines = [
        {
            **line,
            "top-1 %": "-" if line["top-1 %"] is None else f"{line['top-1 %']:.1f}",
            "95 % interval": line["95 % interval"] or "-",
        }
        for line in probe_lines(probes)
    ]
    print_table(lines, title="Probes", empty="no probe ran")


def _cell(value: object) -> Text:
    if value is None:
        return Text("-")
    if isinstance(value, float):
        return Text(f"{value:.4g}")
    if isinstance(value, list):
        value = " ".join(f"{item[0]}:{item[1]}" if isinstance(item, tuple) else str(item) for item in value)
    return Text(on_one_line(str(value)))


def print_json(value: object) -> None:
    """Print the one line of JSON that machines read: strict, and safe to show."""
    from pipeline.query.results import json_text

    typer.echo(json_printable(json_text(value)))


def fail(message: str) -> None:
    """Print an error for people on stderr."""
    err.print("error:", style="bold red", end=" ")
    err.print(message, markup=False)
    sys.stderr.flush()
