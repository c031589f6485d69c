"""Options that several commands share, and how they become settings, recipe and store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.before_work import store_for_work
from pipeline import FeatureStore
from pipeline.errors import InvalidInputError, StoreNotFoundError
from pipeline.recipe import Recipe, load_recipe
from pipeline.settings import Settings
from pipeline.storage.backend_local import LocalBackend

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML); the shipped ones are in flows/recipes/.")
]
StoreArgument = Annotated[
    str, typer.Argument(metavar="STORE", envvar="SCALE_STORE", help="Folder, or s3:// gs:// az:// address.")
]
StoreOrOnly = Annotated[
    str,
    typer.Argument(
        metavar="STORE", help="Folder or address; may be left out where SCALE_STORE is set.", show_default=False
    ),
]
"""The first of two arguments; see :func:`with_store`."""
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store", envvar="SCALE_STORE", show_default="./store",
        help="Feature store: folder or s3:// gs:// az:// address.",
    ),
]  # fmt: skip
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", envvar="SCALE_DATA", show_default="working folder",
        help="Folder that the recipe's video paths start from.",
    ),
]  # fmt: skip
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights", envvar="SCALE_WEIGHTS", show_default="data folder, recipe's folder, working folder",
        help="Folder searched first for weights files.",
    ),
]  # fmt: skip
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", envvar="SCALE_DEVICE", show_default="auto", help="auto, cpu, cuda or cuda:N."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", min=0, envvar="SCALE_WORKERS", show_default="0", help="Decoding workers; 0 picks by cores."
    ),
]
DaskOption = Annotated[
    str | None,
    typer.Option(
        "--dask", envvar="SCALE_DASK", show_default="this process",
        help="Dask scheduler address, or a number of local workers to start.",
    ),
]  # fmt: skip
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


@contextmanager
def store_of_run(settings: Settings, *, dry_run: bool) -> Iterator[FeatureStore]:
    """Open the store of a run, making it when it is not there yet (a dry run makes none on disk)."""
    if not dry_run:
        with store_for_work(settings.store) as store:
            yield store
        return
    with tempfile.TemporaryDirectory(prefix="scale-dry-run-") as folder:
        try:
            opened = FeatureStore.open(settings.store, mode="r")
        except StoreNotFoundError:
            # Plans are made against a store; an empty one in a temporary folder stands for the one not made yet.
            opened = FeatureStore.create(LocalBackend(Path(folder) / "store"))  # no place of the user's
        yield opened


def with_store(first: str, second: str | None, what: str) -> tuple[str, str]:
    """Return store and the other argument of a command that takes both; with SCALE_STORE the other one is enough.

    Raises
    ------
    BadParameter
        If there is one alone, and no SCALE_STORE.
    """
    if second is not None:
        return first, second
    if store := os.environ.get("SCALE_STORE"):
        return store, first
    raise typer.BadParameter(f"expected STORE and {what}, found {first!r} alone; give both, or set SCALE_STORE")


def check_output(path: Path | None) -> None:
    """Refuse a place that nothing can be written to, before any work is done for it.

    Raises
    ------
    InvalidInputError
        If it is a folder, or its own folder is not there or cannot be written.
    """
    if path is None:
        return
    if path.is_dir():
        raise InvalidInputError(f"expected a file to write to, found the folder {path}; add a file name")
    if not path.absolute().parent.is_dir():
        raise InvalidInputError(f"expected a folder to write {path.name} into, found none at {path.parent}; make it")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise InvalidInputError(f"expected a place that can be written, found {path}, which cannot; give another")


def split_list(text: str | None) -> list[str] | None:
    """Return the parts of a comma-separated option, or None when it was not given."""
    if text is None:
        return None
    return [part.strip() for part in text.split(",") if part.strip()]
