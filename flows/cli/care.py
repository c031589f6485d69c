"""Care for whole stores: backup, upgrade to the present schema, many small files into a few."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from flows.cli import console
from flows.cli.options import JsonOption, QuietOption, StoreArgument, StoreOrOnly, with_store
from pipeline.errors import EXIT_FAILURE


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("backup", help="Copy a store, checked; later only what is new. Safe beside a run.")(backup)
    app.command("upgrade", help="Bring a store to the present schema: adds files, changes no stored value.")(upgrade)
    app.command("compact", help="Many small files into a few larger ones; safe at any time, changes no answer.")(
        compact
    )


def backup(
    store: StoreOrOnly,
    dest: Annotated[
        str | None,
        typer.Argument(metavar="DEST", show_default=False, help="An empty folder or address, or an earlier backup."),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Copy a store as it stands now, also beside a run; the copy is a store."""
    from pipeline.verify.backup import backup_store

    place, target = with_store(store, dest, "DEST")
    with console.EventPrinter(quiet=quiet or as_json) as printer:
        report = backup_store(place, target, on_event=printer)
    if as_json:
        console.print_json({**asdict(report), "check": report.check.model_dump(mode="json")})
    else:
        console.out.print(report.summary(), markup=False)
        if lines := report.check.table():
            console.print_table(lines)
    if not report.check.is_clean:
        raise typer.Exit(EXIT_FAILURE)


def upgrade(store: StoreArgument, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Upgrade a store; may be interrupted and run again."""
    from pipeline.store.upgrade import upgrade_store

    with console.EventPrinter(quiet=quiet or as_json) as printer:
        report = upgrade_store(store, on_event=printer)
    if as_json:
        console.print_json(asdict(report))
    else:
        console.out.print(report.summary(), markup=False)


def compact(store: StoreArgument, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Compact a store; may be interrupted and run again, beside runs and readers."""
    from pipeline import FeatureStore
    from pipeline.store.compact import compact_store

    opened = FeatureStore.open(store, mode="a")
    with console.EventPrinter(quiet=quiet or as_json) as printer:
        report = compact_store(opened, on_event=printer)
    if as_json:
        console.print_json(asdict(report))
    else:
        console.out.print(report.summary(), markup=False)
