"""The command `scale weights`: published weights by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import console
from flows.cli.options import JsonOption, QuietOption
from pipeline.errors import NotFoundError
from pipeline.names import did_you_mean
from pipeline.recipe import NamedWeights, Recipe

app = typer.Typer(name="weights", help="Published weights by name: list them, fetch them, add your own.",
                  no_args_is_help=True)  # fmt: skip


def register(parent: typer.Typer) -> None:
    """Add the commands to the application."""
    parent.add_typer(app)


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """Say which names there are, and which are fetched."""
    from extract.backbones.published import PUBLISHED
    from extract.backbones.weights_lock import read_lock

    locked = read_lock()
    lines: list[dict[str, Any]] = [
        {
            "name": name,
            "backbone": PUBLISHED[name].backbone if name in PUBLISHED else "",
            "sha256": locked[name].sha256 if name in locked else None,
            "from": PUBLISHED[name].address if name in PUBLISHED else locked[name].file,
        }
        for name in sorted(PUBLISHED.keys() | locked.keys())
    ]
    if as_json:
        console.print_json(lines)
        return
    shown = [line | {"sha256": (line["sha256"] or "not fetched")[:12]} for line in lines]
    console.print_table(shown, title="Weights")


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="A name that `scale weights list` shows.")],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fetch weights into the cache, and print the lines for a recipe."""
    from extract.backbones import fetching
    from extract.backbones.published import PUBLISHED

    if name not in PUBLISHED:
        raise NotFoundError(
            f"expected a name of {', '.join(sorted(PUBLISHED))}; found {name!r}{did_you_mean(name, PUBLISHED)}"
        )
    with _bar(name, quiet=quiet or as_json) as on_bytes:
        entry = fetching.fetch(PUBLISHED[name], on_bytes=on_bytes)
    _say(name, entry, PUBLISHED[name].backbone, as_json)


def fetch_named(recipe: Recipe, *, quiet: bool) -> None:
    """Fetch the weights that a recipe names and the lock file lacks.

    Raises
    ------
    NotFoundError
        If a name is none of those that are published.
    """
    from extract.backbones import fetching
    from extract.backbones.published import PUBLISHED
    from extract.backbones.weights_lock import read_lock

    for spec in recipe.backbones.values():
        weights = getattr(spec, "weights", None)
        if not isinstance(weights, NamedWeights):
            continue
        entry = read_lock().get(weights.name)
        if entry is not None and entry.path.is_file():
            continue
        if (name := weights.name) not in PUBLISHED:
            raise NotFoundError(
                f"expected a name of {', '.join(sorted(PUBLISHED))}; found {name!r}{did_you_mean(name, PUBLISHED)}"
            )
        with _bar(weights.name, quiet=quiet) as on_bytes:
            entry = fetching.fetch(PUBLISHED[weights.name], on_bytes=on_bytes)
        console.err.print(f"fetched  {weights.name}: sha256 {entry.sha256}", markup=False)


@app.command("add")
def add(
    file: Annotated[Path, typer.Argument(help="A weights file that is there already.")],
    name: Annotated[str | None, typer.Option("--name", show_default="the file's", help="Its name.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Put a file's hash into the lock file, so that recipes may name it."""
    from extract.backbones import fetching

    chosen = name or file.stem
    _say(chosen, fetching.add(chosen, file), "kind: ..., model: ...", as_json)


def _say(name: str, entry: Any, backbone: str, as_json: bool) -> None:
    if as_json:
        console.print_json({"name": name, "path": str(entry.path), "sha256": entry.sha256, "bytes": entry.num_bytes})
        return
    lines = (
        f"{name}: {{{backbone}, weights: {{name: {name}}}}}",
        "or, for any machine:",
        f"{name}: {{{backbone}, weights: {{path: {entry.path}, sha256: {entry.sha256}}}}}",
    )
    for line in lines:
        console.out.print(line, markup=False, soft_wrap=True)


class _bar:
    """A progress bar in bytes on stderr."""

    def __init__(self, name: str, *, quiet: bool) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn(name), BarColumn(bar_width=30), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
            console=console.err, disable=quiet or not console.err.is_terminal, transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task(name, total=None)

    def __enter__(self) -> Any:
        self._progress.start()
        return lambda done, total: self._progress.update(self._task, completed=done, total=total or None)

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()
