"""Operations: is this machine fit, do the features still hold, and what should a Prefect server know."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from flows.cli import console
from flows.cli.options import DataOption, DeviceOption, JsonOption, StoreArgument, WeightsOption, make_settings
from flows.cli.picking import DatasetOption, FeaturesOption, pick_dataset, pick_features
from pipeline import FeatureStore
from pipeline.errors import EXIT_FAILURE


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("doctor", help="Check versions, GPU, codecs, storage, Prefect, disk; say how to fix each.")(doctor)
    app.command("audit", help="Decode and embed random stored crops again; non-zero exit when they drifted.")(audit)
    app.command("deploy", help="Create or update pools, queues, limits and deployments on the Prefect server.")(deploy)


def doctor(
    store: Annotated[
        str | None,
        typer.Argument(metavar="STORE", envvar="SCALE_STORE", show_default="./store", help="Store to check."),
    ] = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at everything a run needs."""
    from flows.doctor import diagnose

    findings = diagnose(make_settings(store=store, data=data, weights=weights, device=device))
    if as_json:
        console.print_json([asdict(f) for f in findings])
    else:
        marks = {"ok": "ok", "warn": "optional", "fail": "FIX"}
        lines = [
            {"check": f.check, "": marks[f.result], "found": f.found, "what to do": "" if f.result == "ok" else f.fix}
            for f in findings
        ]
        console.print_table(lines)
    if any(f.result == "fail" for f in findings):
        raise typer.Exit(EXIT_FAILURE)


def audit(
    store: StoreArgument,
    num_crops: Annotated[int, typer.Option("--crops", min=1, help="How many stored crops to draw.")] = 16,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="Largest relative difference allowed.")] = 1e-2,
    seed: Annotated[int, typer.Option("--seed", help="Decides which crops.")] = 0,
    features: FeaturesOption = None,
    dataset: DatasetOption = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hold stored features against the pixels they came from."""
    from extract import audit as audit_features

    opened = FeatureStore.open(store)
    held = pick_dataset(opened, dataset)
    every = [(crops, name) for crops in held.crop_sets() for name in held.feature_sets(crops)]
    settings = make_settings(store=store, data=data, weights=weights, device=device)
    reports = [
        audit_features(opened, held.name, crops, name, settings, num_crops=num_crops, seed=seed, tolerance=tolerance)
        for crops, name in ([pick_features(held, features)] if features else every)
    ]
    if as_json:
        lines = [{"summary": r.summary(), "ok": r.is_ok, "crops": r.table()} for r in reports]
        console.print_json({"ok": all(r.is_ok for r in reports), "feature_sets": lines})
    else:
        for report in reports:
            console.print_table(report.table(), title=report.summary())
    if not all(report.is_ok for report in reports):
        raise typer.Exit(EXIT_FAILURE)


def deploy(as_json: JsonOption = False) -> None:
    """Make the server what flows/prefect.yaml says; can be run again."""
    from flows.bootstrap import deploy_all

    done = deploy_all(on_line=lambda line: console.err.print(line, markup=False))
    if as_json:
        console.print_json(done)
    else:
        console.print_table(done["table"], title="Deployments")
