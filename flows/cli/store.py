"""What a store holds, and care for it: info, status, verify, retry, import, export."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import console
from flows.cli.asking import describe_written
from flows.cli.options import (
    DataOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    StoreArgument,
    WeightsOption,
    check_output,
    make_settings,
    split_list,
)
from flows.cli.picking import DatasetOption, FeaturesOption, WhereOption, pick_dataset, pick_features
from pipeline import FeatureStore
from pipeline.errors import EXIT_FAILURE, InvalidInputError

LIMIT_SHOWN = 40


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("info", help="What a store holds.")(info)
    app.command("status", help="Done and total per feature set; failures by reason.")(status)
    app.command("verify", help="Recompute checksums, find torn, missing and orphan files; non-zero exit if any.")(
        verify
    )
    app.command("retry", help="Redo just the videos with these statuses, with the recipe the store remembers.")(retry)
    app.command("export", help="Write features to one HDF5 file, or a pretrained backbone to a program (.pt2).")(export)


def info(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Describe a store."""
    from pipeline.query.holdings import holdings

    opened = FeatureStore.open(store)
    listed = [held.as_json() for held in holdings(opened)]
    if as_json:
        console.print_json({"store": opened.url, "datasets": listed})
        return
    console.out.print(f"store {opened.url}", markup=False)
    if not listed:
        console.out.print("no dataset yet; `scale run RECIPE --store ...` makes one")
    for item in listed:
        console.out.print(f"\n[bold]{item['dataset']}[/]  {item['videos']} videos  snapshot {item['snapshot'][:16]}")
        console.print_table(item["features"], empty="no features yet")
        for kind in ("embeddings", "models", "indexes", "reports", "maps"):
            if item[kind]:
                console.out.print(f"{kind}: {', '.join(item[kind])}", markup=False)


def status(
    store: StoreArgument,
    dataset: DatasetOption = None,
    features: FeaturesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how far each feature set is, and which videos failed."""
    from pipeline.query.holdings import progress

    opened = FeatureStore.open(store)
    counts: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    for name in [dataset] if dataset else opened.datasets():
        held = opened.dataset(name)
        found, failed = progress(held, [pick_features(held, features)] if features else None)
        counts += [asdict(one) for one in found]
        failures += [asdict(one) for one in failed]
    if as_json:
        console.print_json({"feature_sets": counts, "failures": failures})
        return
    lines = [{**c, "statuses": ", ".join(f"{n} {s}" for s, n in c["statuses"].items())} for c in counts]
    console.print_table(lines, title="Feature sets", empty="none yet")
    if failures:
        console.print_table(failures[:LIMIT_SHOWN], title=f"Videos with a status ({len(failures)})")
        if len(failures) > LIMIT_SHOWN:
            console.out.print(f"... {len(failures) - LIMIT_SHOWN} more; --json lists all")


def verify(
    store: StoreArgument,
    dataset: DatasetOption = None,
    repair: Annotated[bool, typer.Option("--repair", help="Drop what is bad, so that the next run redoes it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check every byte of a store against its ledger."""
    from pipeline.verify.verify_store import verify_store

    opened = FeatureStore.open(store, mode="a" if repair else "r")
    report = verify_store(opened, datasets=[dataset] if dataset else None, repair=repair)
    if as_json:
        console.print_json(report.model_dump(mode="json"))
    else:
        console.out.print(report.summary(), markup=False)
        if lines := report.table():
            console.print_table(lines)
    if not report.is_clean:
        raise typer.Exit(EXIT_FAILURE)


def retry(
    store: StoreArgument,
    statuses: Annotated[
        str, typer.Option("--status", help="Comma-separated: unreadable,partial,damaged,missing,non_finite,too_short")
    ] = "unreadable,partial,missing",
    dataset: DatasetOption = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Redo rows by status."""
    from flows.retrying import check_statuses, retry_videos

    wanted = check_statuses(split_list(statuses) or [])
    opened = FeatureStore.open(store, mode="a")
    held = pick_dataset(opened, dataset)
    settings = make_settings(store=store, data=data, weights=weights, device=device)
    with console.EventPrinter(quiet=quiet) as printer:
        reports = retry_videos(opened, held, wanted, settings, printer)
    if as_json:
        console.print_json({"runs": [r.as_json() for r in reports]})
    else:
        lines = [{"recipe": r.recipe, **r.stages[0].did} for r in reports]
        console.print_table(lines, title="Retried")


def export(
    store: StoreArgument,
    out: Annotated[Path, typer.Option("--out", help="The .h5 (or .pt2) file to write.")],
    dataset: DatasetOption = None,
    features: FeaturesOption = None,
    where: WhereOption = None,
    program: Annotated[
        str | None,
        typer.Option("--program", metavar="NAME", show_default="features", help="A pretrained backbone, as a program."),
    ] = None,
) -> None:
    """Export features to HDF5, or a pretrained backbone to a program."""
    check_output(out)
    held = pick_dataset(FeatureStore.open(store), dataset)
    if program is not None:
        from extract.backbones.exporting import export_program

        if out.suffix != ".pt2":
            raise InvalidInputError(f"expected a name that ends in .pt2 for a program, found {out}")
        section = export_program(held, program, out)
        console.out.print(
            f"wrote the backbone {program} to {out}; in a recipe, under backbones:", markup=False, soft_wrap=True
        )
        console.print_json({program: section})
        return
    crops, feature_set = pick_features(held, features)
    selection = held.select(where)
    selection.to_hdf5(out, crops, feature_set)
    console.out.print(f"wrote {describe_written(selection, crops, feature_set)} to {out}", markup=False, soft_wrap=True)
