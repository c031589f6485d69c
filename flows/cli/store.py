"""What a store holds, and care for it: info, status, verify, retry, import, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.before_work import store_for_work
from flows.cli import console
from flows.cli.asking import describe_written
from flows.cli.options import (
    DataOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    StoreArgument,
    StoreOrOnly,
    WeightsOption,
    check_output,
    make_settings,
    split_list,
    with_store,
)
from flows.cli.picking import DatasetOption, FeaturesOption, WhereOption, pick_dataset, pick_features
from pipeline import Dataset, FeatureStore
from pipeline.errors import EXIT_FAILURE, InvalidInputError, NoDataError
from pipeline.names import did_you_mean

LIMIT_SHOWN = 40


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("info", help="What a store holds.")(info)
    app.command("status", help="Done and total per feature set; failures by reason.")(status)
    app.command("verify", help="Recompute checksums, find torn, missing and orphan files; non-zero exit if any.")(
        verify
    )
    app.command("retry", help="Redo just the videos with these statuses, with the recipe the store remembers.")(retry)
    app.command("import", help="Bring features in: HDF5, or the original SCALE memory maps.")(import_)
    app.command("export", help="Write a dataset's features to one HDF5 file.")(export)


def info(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Describe a store."""
    opened = FeatureStore.open(store)
    listed: list[dict[str, Any]] = []
    for name in opened.datasets():
        dataset = opened.dataset(name)
        features = []
        for crops in dataset.crop_sets():
            for feature_set in dataset.feature_sets(crops):
                facts = dataset.feature_info(crops, feature_set)
                features.append(
                    {
                        "features": f"{crops}/{feature_set}",
                        "crops": facts.num_crops,
                        "dim": facts.dim,
                        "dtype": str(facts.dtype),
                        "shards": f"{facts.num_shards_done}/{facts.num_shards}",
                        "fingerprint": facts.fingerprint_id[:12],
                    }
                )
        listed.append(
            {
                "dataset": name,
                "videos": dataset.num_videos,
                "features": features,
                "embeddings": dataset.embedding_sets(),
                "models": dataset.artifacts("models"),
                "indexes": dataset.artifacts("indexes"),
                "reports": dataset.artifacts("reports"),
                "snapshot": dataset.snapshot(),
            }
        )
    if as_json:
        console.print_json({"store": opened.url, "datasets": listed})
        return
    console.out.print(f"store {opened.url}", markup=False)
    if not listed:
        console.out.print("no dataset yet; `scale run RECIPE --store ...` makes one")
    for item in listed:
        console.out.print(f"\n[bold]{item['dataset']}[/]  {item['videos']} videos  snapshot {item['snapshot'][:16]}")
        console.print_table(item["features"], empty="no features yet")
        for kind in ("embeddings", "models", "indexes", "reports"):
            if item[kind]:
                console.out.print(f"{kind}: {', '.join(item[kind])}", markup=False)


def status(
    store: StoreArgument,
    dataset: DatasetOption = None,
    features: FeaturesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how far each feature set is, and which videos failed."""
    opened = FeatureStore.open(store)
    names = [dataset] if dataset else opened.datasets()
    counts: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    for name in names:
        held = opened.dataset(name)
        failures.extend(_unread(name, held))
        wanted = (
            [pick_features(held, features)]
            if features
            else [(crops, fs) for crops in held.crop_sets() for fs in held.feature_sets(crops)]
        )
        for crops, feature_set in wanted:
            tally = dict(sorted(held.status_counts(crops, feature_set).items()))
            total = sum(tally.values())
            label = f"{name}/{crops}/{feature_set}"
            counts.append(
                {"features": label, "done": total - tally.get("pending", 0), "total": total, "statuses": tally}
            )
            failures.extend(
                {
                    "features": label,
                    "video": row["video_id"],
                    "status": row["status"],
                    "attempts": row["attempts"],
                    "error": row["error"],
                }
                for row in held.failed(crops, feature_set).to_pylist()
            )
    if as_json:
        console.print_json({"feature_sets": counts, "failures": failures})
        return
    rows = [{**c, "statuses": ", ".join(f"{n} {s}" for s, n in c["statuses"].items())} for c in counts]
    console.print_table(rows, title="Feature sets", empty="none yet")
    if failures:
        console.print_table(failures[:LIMIT_SHOWN], title=f"Videos with a status ({len(failures)})")
        if len(failures) > LIMIT_SHOWN:
            console.out.print(f"... {len(failures) - LIMIT_SHOWN} more; --json lists all")


def _unread(name: str, held: Dataset) -> list[dict[str, Any]]:
    """Return the videos that could not be looked into when they were catalogued, before any feature set exists."""
    if any(held.feature_sets(crops) for crops in held.crop_sets()):
        return []
    videos = held.videos.select(["video_id", "probe_error"]).to_pylist()
    return [
        {"features": f"{name} (catalogue)", "video": video["video_id"], "status": "unreadable", "attempts": 1,
         "error": video["probe_error"]}
        for video in videos if video["probe_error"]
    ]  # fmt: skip


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
        if rows := report.table():
            console.print_table(rows)
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
    from flows.runner import run_recipe
    from pipeline.recipe import parse_recipe
    from pipeline.status import VideoStatus

    wanted = split_list(statuses) or []
    known = [s.value for s in VideoStatus if s is not VideoStatus.OK]
    if unknown := sorted(set(wanted) - set(known)):
        raise InvalidInputError(
            f"expected --status out of {', '.join(known)}; found {', '.join(unknown)}{did_you_mean(unknown[0], known)}"
        )
    opened = FeatureStore.open(store, mode="a")
    held = pick_dataset(opened, dataset)
    recipes: dict[str, Any] = {}
    for crops in held.crop_sets():
        for feature_set in held.feature_sets(crops):
            if content := held.feature_info(crops, feature_set).recipe:
                recipes[json.dumps(content, sort_keys=True)] = content
    if not recipes:
        raise NoDataError(
            f"expected features that remember their recipe in {held.name}, found none; run a recipe first"
        )
    reports = []
    settings = make_settings(store=store, data=data, weights=weights, device=device)
    with console.EventPrinter(quiet=quiet) as printer:
        for content in recipes.values():
            recipe = parse_recipe(content, source=f"recipe in {store}")
            reports.append(
                run_recipe(recipe, opened, settings, stages=["extract"], on_event=printer, retry=tuple(wanted))
            )
    if as_json:
        console.print_json({"runs": [r.as_json() for r in reports]})
    else:
        rows = [{"recipe": r.recipe, **r.stages[0].did} for r in reports]
        console.print_table(rows, title="Retried")


def import_(
    store: StoreOrOnly,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE", show_default=False, help="An .h5 file, or a folder with SCALE's .dat memory maps."
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", show_default="what the file says", help="Name of the dataset.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features", metavar="CROPS/FEATURE_SET", show_default="what the file says", help="Name of the features."
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="OURS=THEIRS",
            show_default="ours",
            help="Foreign HDF5: values=feats, video_id=ids, label=y ...",
        ),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(show_default="needed for them", help="Memory maps: {ds}, the dataset part of the file names."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(show_default="needed for them", help="Memory maps: {model}: byl, svt, vbf, vbp, vlp ..."),
    ] = None,
    part: Annotated[str, typer.Option(help="Memory maps: lin, aug or val.")] = "lin",
    num_videos: Annotated[
        int | None, typer.Option(show_default="needed for them", help="Memory maps: number of videos.")
    ] = None,
    num_crops: Annotated[
        int | None, typer.Option(show_default="needed for them", help="Memory maps: crops a video.")
    ] = None,
    dim: Annotated[
        int | None, typer.Option(show_default="needed for them", help="Memory maps: feature channels.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Memory maps: float16 or float32.")] = "float16",
) -> None:
    """Import features made elsewhere."""
    place, given = with_store(store, source, "SOURCE")
    file = Path(given)
    crops, slash, feature_set = (features or "").partition("/")
    if features is not None and not (crops and slash and feature_set):
        raise InvalidInputError(f"expected --features CROPS/FEATURE_SET, found {features!r}")
    names_of = {"dataset": dataset, "crops": crops or None, "feature_set": feature_set or None}
    if file.suffix in (".h5", ".hdf5") and file.is_file():
        pairs = [name.partition("=") for name in names or []]
        if bad := [ours for ours, equals, theirs in pairs if not (ours and equals and theirs)]:
            raise InvalidInputError(f"expected --name OURS=THEIRS, such as values=feats, found {bad[0]!r}")
        with store_for_work(place) as opened:
            report = opened.import_hdf5(file, names={ours: theirs for ours, _, theirs in pairs}, **names_of)
    elif file.is_dir():
        shape = {"num_videos": num_videos, "num_crops": num_crops, "dim": dim}
        needed = {"prefix": prefix, "model": model, **shape}
        if absent := [f"--{name.replace('_', '-')}" for name, value in needed.items() if value is None]:
            raise InvalidInputError(
                f"expected the shape of the memory maps, which the files do not hold; give {', '.join(absent)}"
            )
        with store_for_work(place) as opened:
            report = opened.import_scale_memmaps(file, variant=part, dtype=dtype, **needed, **names_of)
    else:
        raise InvalidInputError(f"expected an .h5 file or a folder of .dat files, found {file}")
    console.out.print(
        f"imported {report.rows_written} videos into {report.crops}/{report.feature_set} of {report.dataset} in "
        f"{opened.url}; {report.shards_skipped} shards were there already"
        + (f"; {report.rows_non_finite} videos have crops that were not finite" if report.rows_non_finite else ""),
        markup=False,
    )


def export(
    store: StoreArgument,
    out: Annotated[Path, typer.Option("--out", help="The .h5 file to write.")],
    dataset: DatasetOption = None,
    features: FeaturesOption = None,
    where: WhereOption = None,
) -> None:
    """Export features to HDF5."""
    check_output(out)
    held = pick_dataset(FeatureStore.open(store), dataset)
    crops, feature_set = pick_features(held, features)
    selection = held.select(where)
    selection.to_hdf5(out, crops, feature_set)
    console.out.print(f"wrote {describe_written(selection, crops, feature_set)} to {out}", markup=False)
