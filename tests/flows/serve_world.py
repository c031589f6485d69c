"""A small finished job behind a real server on a free port, made once a session."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from flows.runner import run_recipe
from flows.serve.app import build_app
from flows.serve.stores import open_stores
from pipeline import Dataset, FeatureStore
from pipeline.recipe import load_recipe
from pipeline.settings import Settings
from tests.flows.conftest import Job, make_job
from tests.support.services import free_port, wait_until

VIEWS = ("", "/videos", "/video/1", "/map", "/search", "/reports", "/lineage?of=reports/tiny", "/failures")
"""Of a dataset."""


@dataclass(frozen=True)
class ServedJob:
    """A finished job and the settings it is served with."""

    job: Job
    settings: Settings

    def over(self, store: Path) -> ServedJob:
        """Return the same, over another store."""
        return replace(self, job=replace(self.job, store=store))

    def app(self, **options: Any) -> Any:
        """Return an application over the job's store, called `s`."""
        return build_app(open_stores([f"s={self.job.store}"], refresh_s=0.0), self.settings, **options)


def finished_job(folder: Path, program: tuple[Path, str]) -> ServedJob:
    """Run the tiny job, with one file that is no video."""
    job = make_job(folder, program)
    (job.data / "a" / "broken.mp4").write_bytes(b"no video at all")
    settings = Settings(data=job.data, device="cpu", workers=1, cache=folder / "cache")
    run_recipe(load_recipe(job.recipe), FeatureStore.open_or_create(str(job.store)), settings)
    return ServedJob(job, settings)


def dataset(served: ServedJob) -> Dataset:
    return FeatureStore.open(str(served.job.store)).dataset("set")


def chosen_rows(served: ServedJob) -> list[int]:
    """Return the rows that have features, all of them on the map."""
    ds = dataset(served)
    return np.flatnonzero(ds.select().features("grid", "tiny").valid.any(axis=1)).tolist()


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """Run an application on a free port of loopback."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, timeout_s=30, what="the server")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
