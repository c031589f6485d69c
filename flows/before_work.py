"""What is looked at before any work: device, folders, weights, room on the disk; no empty store stays behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline import FeatureStore
from pipeline.errors import AlreadyExistsError, NotFoundError, ResourceError, StoreNotFoundError
from pipeline.recipe import Recipe
from pipeline.settings import Settings
from pipeline.storage.backend import StorageBackend
from pipeline.storage.opening import open_backend
from pipeline.storage.schema import ZARR_JSON
from pipeline.storage.spare import spare_key

MIN_FREE_BYTES = 64 << 20
"""Below this not even a catalogue and a checkpoint have room."""


def check_before(recipe: Recipe, settings: Settings, stages: Collection[str]) -> None:
    """Find what would stop a run, before it has looked into one video.

    Parameters
    ----------
    recipe : Recipe
    settings : Settings
    stages : collection of str
        Names of the stages that are going to run.

    Raises
    ------
    InvalidInputError
        If the device does not exist.
    NotFoundError, WeightsError
        If the data folder or a weights file is not there, or the file is another one.
    ResourceError
        If the store's disk is full.
    """
    if settings.device not in ("auto", "cpu"):  # those are always there, and torch takes its time to load
        from pipeline.compute.devices import pick_device

        pick_device(settings.device)
    if "catalog" in stages and settings.data is not None and not settings.data.is_dir():
        raise NotFoundError(
            f"expected the folder of the videos at {settings.data}, found none; check --data (or SCALE_DATA)"
        )
    if {"catalog", "extract"} <= set(stages):
        from extract.run.plan import check_targets

        check_targets(recipe, settings)
    check_room(settings.store)


def check_room(store: str, needed_bytes: int = MIN_FREE_BYTES) -> None:
    """Refuse to begin where the disk of a local store has less than this left.

    Raises
    ------
    ResourceError
        If it has.
    """
    folder = local_folder(store)
    if folder is not None and (free := shutil.disk_usage(folder).free) < needed_bytes:
        raise ResourceError(
            f"expected at least {needed_bytes / 2**20:.0f} MiB free for the store in {folder}, found "
            f"{free / 2**20:.0f} MiB; free space, or give a store elsewhere with --store"
        )


def local_folder(store: str) -> Path | None:
    """Return the folder of a local store, or the nearest one above it that is there; None for an object store."""
    file = open_backend(store).local_path(ZARR_JSON)
    if file is None:
        return None
    path = file.absolute().parent
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


@contextmanager
def store_for_work(url: str) -> Iterator[FeatureStore]:
    """Open a store for writing, making it where there is none; one that work failed to put anything into goes again."""
    stood_before = local_folder(url)
    try:
        store, is_new = FeatureStore.open(url, mode="a"), False
    except StoreNotFoundError:
        try:
            store, is_new = FeatureStore.create(url), True
        except AlreadyExistsError:  # another process was faster, and it is its own
            store, is_new = FeatureStore.open(url, mode="a"), False
    try:
        yield store
    except BaseException:
        if is_new:
            with suppress(Exception):  # the error that ended the work is the one to be heard
                remove_empty(store.backend, stood_before)
        raise


def remove_empty(backend: StorageBackend, stood_before: Path | None = None) -> bool:
    """Remove a store that holds nothing yet; return whether it went.

    Parameters
    ----------
    backend : StorageBackend
    stood_before : Path, optional
        Its folder and those above it go as well where they are empty then, up to this one, which stays.
    """
    made = (spare_key(ZARR_JSON), ZARR_JSON)
    if _holds_more(backend, made):
        return False
    root = backend.read(ZARR_JSON)
    for key in made:
        backend.delete(key)
    if _holds_more(backend, made):  # a run began in it meanwhile; one that begins later makes the root it lacks
        for key in made:
            backend.put(key, root)
        return False
    file = backend.local_path(ZARR_JSON)
    if file is None or stood_before is None:
        return True
    folder = file.absolute().parent
    with suppress(OSError):  # somebody else's files: the folder stays
        for inner, _, _ in os.walk(folder, topdown=False):
            os.rmdir(inner)
        for above in folder.parents:
            if above == stood_before or not above.is_relative_to(stood_before):
                break
            above.rmdir()
    return True


def _holds_more(backend: StorageBackend, made: Collection[str]) -> bool:
    return any(key not in made and "_lock/" not in key for key, _ in backend.list(""))
