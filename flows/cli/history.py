"""What was run and what came of it: runs, where a number comes from, and old versions that may go."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from flows.artifacts import probe_setting
from flows.cli import console
from flows.cli.options import JsonOption, StoreArgument, StoreOrOnly, with_store
from flows.cli.picking import DatasetOption, pick_dataset
from flows.cli.stages import WORK_COUNTS
from pipeline import FeatureStore
from pipeline.errors import InvalidInputError


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("runs", help="Every run: recipe, changed fields, numbers, wall time, who and where.")(runs)
    app.command("lineage", help="What a report, number, index, embedding or model is made of, down to the videos.")(
        lineage
    )
    app.command("prune", help="Remove older versions of models, indexes and reports; shows bytes, asks.")(prune)


def runs(store: StoreArgument, dataset: DatasetOption = None, as_json: JsonOption = False) -> None:
    """List the runs of a dataset, the newest last."""
    from pipeline.products.history import past_runs

    ds = pick_dataset(FeatureStore.open(store), dataset)
    found = past_runs(ds)
    if as_json:
        listed = [
            asdict(run.record) | {"changes": [{"field": c.field, "old": c.old, "new": c.new} for c in run.changes]}
            for run in found
        ]
        typer.echo(json.dumps({"dataset": ds.name, "runs": listed}, default=str))
        return
    lines = [
        {
            "started": run.record.started_at,
            "recipe": run.record.recipe,
            "changed": "first of its name" if run.is_first else ", ".join(map(str, run.changes)) or "nothing",
            "did": _did(run.record.did),
            "best": _number(run.best),
            "reports": ", ".join(p.removeprefix("reports/") for p in run.record.products if p.startswith("reports/")),
            "snapshot": run.record.snapshot[:12],
            "seconds": round(run.record.seconds, 1),
            "ended": run.record.outcome,
            "who": f"{run.record.who}@{run.record.where}",
        }
        for run in found
    ]
    console.print_table(lines, title=f"Runs of {ds.name}", empty="none was written down yet")


def _did(did: Any) -> str:
    counts = [(name, n) for stage in did.values() for name, n in stage.items() if name in WORK_COUNTS and n]
    return ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts) or "nothing"


def _number(line: Any) -> str:
    if line is None:
        return ""
    parts = (line.get("probe"), line.get("readout"), line.get("embedding"), probe_setting(line))
    return f"{100 * line['top1']:.1f} % {' '.join(str(part) for part in parts if part)}"


def lineage(
    store: StoreOrOnly,
    thing: Annotated[
        str | None,
        typer.Argument(
            metavar="THING",
            show_default=False,
            help="reports/NAME(@2)(#3), indexes/NAME, embeddings/NAME, models/NAME, features/CROPS/FEATURE_SET",
        ),
    ] = None,
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Walk from a thing to models, features, weights, videos and snapshot."""
    from pipeline.products.lineage import lineage as walk

    place, what = with_store(store, thing, "THING")
    origin = walk(pick_dataset(FeatureStore.open(place), dataset), what)
    if as_json:
        typer.echo(json.dumps(origin.as_json(), default=str))
        return
    for line in origin.lines():
        typer.echo(line)


def prune(
    store: StoreArgument,
    keep: Annotated[int, typer.Option("--keep", min=1, help="How many versions of each name stay.")] = 1,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove older versions; those that something is still made of stay."""
    from pipeline.products.history import older_versions

    opened = FeatureStore.open(store, mode="a")
    ds = pick_dataset(opened, dataset)
    found = older_versions(ds, keep=keep)
    lines = [
        {
            "version": one.label,
            "saved": one.saved_at,
            "MiB": round(one.num_bytes / 2**20, 2),
            "do": f"stays: {', '.join(one.needed_by)} is made of it" if one.needed_by else "remove",
        }
        for one in found
    ]
    going = [one for one in found if not one.needed_by]
    if not as_json:
        console.print_table(lines, title=f"Older versions in {ds.name}", empty="none")
    if going and not yes:
        if as_json:
            raise InvalidInputError("expected --yes with --json: nobody can be asked")
        typer.confirm(f"Remove {len(going)} versions?", abort=True)
    for one in going:
        one.remove()
    freed = sum(one.num_bytes for one in going)
    if as_json:
        typer.echo(json.dumps({"removed": [one.label for one in going], "bytes": freed, "versions": lines}))
    elif going:
        console.out.print(f"removed {len(going)} versions, {freed / 2**20:.2f} MiB", markup=False)
