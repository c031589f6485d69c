"""Care for whole stores: upgrade to the present schema, backup."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from flows.cli import console
from flows.cli.options import JsonOption, QuietOption, StoreArgument


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("upgrade", help="Bring a store to the present schema: adds files, changes no stored value.")(upgrade)


def upgrade(store: StoreArgument, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Upgrade a store; may be interrupted and run again."""
    from pipeline.store.upgrade import upgrade_store

    with console.EventPrinter(quiet=quiet or as_json) as printer:
        report = upgrade_store(store, on_event=printer)
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    else:
        console.out.print(report.summary(), markup=False)
