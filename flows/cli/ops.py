"""Operations: is this machine fit (`doctor`), and what a Prefect server should know (`deploy`)."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from flows.cli import console
from flows.cli.options import DataOption, DeviceOption, JsonOption, WeightsOption, make_settings
from pipeline.errors import EXIT_FAILURE


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("doctor", help="Check versions, GPU, codecs, storage, Prefect, disk; say how to fix each.")(doctor)
    app.command("deploy", help="Create or update pools, queues, limits and deployments on the Prefect server.")(deploy)


def doctor(
    store: Annotated[str | None, typer.Argument(metavar="[STORE]", help="Store to check. [env: SCALE_STORE]")] = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at everything a run needs."""
    from flows.doctor import diagnose

    findings = diagnose(make_settings(store=store, data=data, weights=weights, device=device))
    if as_json:
        typer.echo(json.dumps([asdict(f) for f in findings]))
    else:
        marks = {"ok": "ok", "warn": "optional", "fail": "FIX"}
        rows = [
            {"check": f.check, "": marks[f.result], "found": f.found, "what to do": "" if f.result == "ok" else f.fix}
            for f in findings
        ]
        console.print_table(rows)
    if any(f.result == "fail" for f in findings):
        raise typer.Exit(EXIT_FAILURE)


def deploy(as_json: JsonOption = False) -> None:
    """Make the server what flows/prefect.yaml says; can be run again."""
    from flows.bootstrap import deploy_all

    done = deploy_all(on_line=lambda line: console.err.print(line, markup=False))
    if as_json:
        typer.echo(json.dumps(done))
    else:
        rows = [{"deployment": name, "id": identity} for name, identity in done["deployments"].items()]
        console.print_table(rows, title="Deployments")
