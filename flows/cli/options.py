"""Options that several commands share, and how they become settings, recipe and store."""

from __future__ import annotations

import atexit
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import FeatureStore
from pipeline.errors import StoreNotFoundError
from pipeline.recipe import Recipe, load_recipe
from pipeline.settings import Settings

RecipeArgument = Annotated[Path, typer.Argument(help="Recipe file (YAML); the shipped ones are in flows/recipes/.")]
StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="Folder, or s3:// gs:// az:// address.")]
StoreOption = Annotated[
    str | None, typer.Option("--store", help="Feature store: folder or s3:// gs:// az:// address. [env: SCALE_STORE]")
]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder that the recipe's video paths start from. [env: SCALE_DATA]")
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", help="Folder searched first for weights files. [env: SCALE_WEIGHTS]")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N. [env: SCALE_DEVICE]")]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=0, help="Decoding workers; 0 picks by cores. [env: SCALE_WORKERS]")
]
DaskOption = Annotated[
    str | None,
    typer.Option("--dask", help="Dask scheduler address, or a number of local workers to start. [env: SCALE_DASK]"),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and why; do nothing.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machines read this: the last line of stdout is one object.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


def make_settings(recipe: Path | None = None, **flags: Any) -> Settings:
    """Return settings from the environment, with the flags that were given on top.

    Parameters
    ----------
    recipe : Path, optional
        Whose folder is searched for files that the recipe names.
    **flags
        Fields of :class:`pipeline.settings.Settings`; None where a flag was not given.
    """
    if recipe is not None:
        flags["recipe_dir"] = recipe.resolve().parent
    settings = Settings(**{name: value for name, value in flags.items() if value is not None})
    settings.check_places(recipe)
    return settings


def load(recipe: Path) -> Recipe:
    """Load a recipe, with a plain error where it is wrong."""
    return load_recipe(recipe)


def open_for_run(settings: Settings, *, dry_run: bool) -> FeatureStore:
    """Open the store of a run, making it when it is not there yet (a dry run makes none on disk)."""
    if not dry_run:
        return FeatureStore.open_or_create(settings.store)
    try:
        return FeatureStore.open(settings.store, mode="r")
    except StoreNotFoundError:
        # Plans are made against a store; an empty one in a temporary folder stands for the one not made yet.
        folder = tempfile.TemporaryDirectory(prefix="scale-dry-run-")
        atexit.register(folder.cleanup)
        return FeatureStore.create(str(Path(folder.name) / "store"))


def split_list(text: str | None) -> list[str] | None:
    """Return the parts of a comma-separated option, or None when it was not given."""
    if text is None:
        return None
    return [part.strip() for part in text.split(",") if part.strip()]
