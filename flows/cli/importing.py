"""The command `scale import`: features made elsewhere, their labels and splits, and a recipe that measures them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from flows.before_work import store_for_work
from flows.cli import console
from flows.cli.options import StoreOrOnly, with_store
from pipeline import Dataset
from pipeline.errors import InvalidInputError
from pipeline.recipe import parse_recipe
from pipeline.storage.schema import MAX_SHARD_ROWS
from pipeline.store.labels import RECIPE


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("import", help="Bring features in: HDF5, or the original SCALE memory maps.")(import_)


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
    splits: Annotated[
        Path | None,
        typer.Option(
            show_default="as the file says", help="A list as for `scale label`: path or video_id, label, group, split."
        ),
    ] = None,
    shard_rows: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_SHARD_ROWS, show_default="what the file says", help="Of a new dataset."),
    ] = None,
    write_recipe: Annotated[
        Path | None,
        typer.Option("--recipe", show_default="none", help="Write a recipe here that measures the features."),
    ] = None,
) -> None:
    """Import features made elsewhere."""
    if write_recipe is not None and write_recipe.exists():
        raise InvalidInputError(f"expected no file at {write_recipe} yet, found one; give --recipe another name")
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
            report = opened.import_hdf5(
                file, names={ours: theirs for ours, _, theirs in pairs}, shard_rows=shard_rows, **names_of
            )
    elif file.is_dir():
        shape = {"num_videos": num_videos, "num_crops": num_crops, "dim": dim}
        needed = {"prefix": prefix, "model": model, **shape}
        if absent := [f"--{name.replace('_', '-')}" for name, value in needed.items() if value is None]:
            raise InvalidInputError(
                f"expected the shape of the memory maps, which the files do not hold; give {', '.join(absent)}"
            )
        with store_for_work(place) as opened:
            report = opened.import_scale_memmaps(
                file, variant=part, dtype=dtype, shard_rows=shard_rows, **needed, **names_of
            )
    else:
        raise InvalidInputError(f"expected an .h5 file or a folder of .dat files, found {file}")
    console.out.print(
        f"imported {report.rows_written} videos into {report.crops}/{report.feature_set} of {report.dataset} in "
        f"{opened.url}; {report.shards_skipped} shards were there already"
        + (f"; {report.rows_non_finite} videos have crops that were not finite" if report.rows_non_finite else ""),
        markup=False,
    )
    held = opened.dataset(report.dataset)
    if splits is not None:
        _take_list(held, splits)
    if write_recipe is not None:
        _write_recipe(held, report.crops, report.feature_set, write_recipe)


def _take_list(held: Dataset, file: Path) -> None:
    """Give the imported videos the labels, groups and splits of a list."""
    from extract.catalog.relabel import read_label_list

    listed = read_label_list(file, held.videos)
    done = held.change_labels(listed.changes, by=RECIPE)
    for note in listed.notes:
        console.err.print(note, markup=False)
    example = f" ({done.example})" if done.example else ""
    console.out.print(f"{done.num_changed} videos took labels, splits or groups of {file}{example}", markup=False)


def _write_recipe(held: Dataset, crops: str, feature_set: str, file: Path) -> None:
    """Write the recipe that measures a feature set which nobody here can make."""
    policy = held.crop_policy(crops).model_dump(mode="json", exclude_defaults=True)
    content = {
        "name": feature_set,
        "dataset": {"name": held.name, "kind": "stored"},
        "crops": {crops: policy},
        "backbones": {feature_set: {"kind": "imported", "crops": [crops]}},
        "probes": [{"kind": kind, "crops": crops, "readouts": ["mean"]} for kind in ("knn", "linear")],
        "indexes": [{"name": "default", "crops": crops}],
    }
    parse_recipe(content, source=str(file))
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    console.out.print(
        f"wrote {file}: measure with `scale run {file} --store {held.backend.url}`", markup=False, soft_wrap=True
    )
