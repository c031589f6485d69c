"""Care for whole stores: upgrade to the present schema, many small files into a few."""

from __future__ import annotations

from dataclasses import asdict

import typer

from flows.cli import console
from flows.cli.options import JsonOption, QuietOption, StoreArgument


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("upgrade", help="Bring a store to the present schema: adds files, changes no stored value.")(upgrade)
    app.command("compact", help="Many small files into a few larger ones; safe at any time, changes no answer.")(
        compact
    )


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
