"""Extraction past one machine: whole shards as tasks on Dask, on workers that share the store.

A task returns a few numbers, never features: those are in the store when it
ends. A worker may therefore die at any moment; its shards are done again by
another, and what it had committed is found committed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from extract.run.plan import ExtractPlan, plan_extract
from extract.run.shard_runner import counts_of, run_shards
from pipeline.errors import InvalidInputError, StorageError, WorkerLostError
from pipeline.events import Note, OnEvent, Progress
from pipeline.recipe import parse_recipe
from pipeline.settings import Settings

if TYPE_CHECKING:
    from distributed import Client, Future

    from pipeline import FeatureStore

MAX_ATTEMPTS = 50
"""Of one shard, each ended by the death of a worker, before the run gives up."""
CONNECT_TIMEOUT_S = 30
MAX_SUBMITTED = 512
"""Shards that the scheduler is told of at once: its memory must not grow with the number of videos."""

_BACKBONES: dict[str, dict[str, Any]] = {}
"""Of this worker process, by plan: built once, used for every shard that comes."""


def extract_shard(task: Mapping[str, Any]) -> dict[str, Any]:
    """Extract one shard in a worker process; the function that Dask runs.

    Parameters
    ----------
    task : mapping
        JSON-like: recipe, store, settings, shard, retry, targets.

    Returns
    -------
    dict
        The `did` counts of the report.
    """
    from pipeline import FeatureStore

    recipe = parse_recipe(task["recipe"])
    settings = Settings.model_validate(task["settings"]).model_copy(update={"dask": None})
    settings = settings.model_copy(update={"device": _device_of_worker(settings.device), "store": task["store"]})
    settings.check_places()
    store = FeatureStore.open(task["store"], mode="a")
    plan = plan_extract(recipe, store, settings, shards=[task["shard"]], retry=task["retry"], targets=task["targets"])
    kept = _BACKBONES.setdefault(f"{plan.fingerprint} {settings.device}", {})
    return dict(counts_of(plan, run_shards(plan, store, settings, backbones=kept)))


def run_on_dask(plan: ExtractPlan, store: FeatureStore, settings: Settings, on_event: OnEvent) -> dict[str, int]:
    """Run the shards of a plan on Dask and wait for all of them.

    Parameters
    ----------
    plan : ExtractPlan
    store : FeatureStore
        At an address that every worker can reach.
    settings : Settings
        `dask` is a scheduler's address, or a number of local workers.
    on_event : callable

    Returns
    -------
    dict
        Sums of the shards' `did` counts.

    Raises
    ------
    WorkerLostError
        If workers die over one shard again and again, or the scheduler is gone.
    """
    totals: dict[str, int] = {}
    attempts: dict[int, int] = {}
    videos = {s.shard: s.num_videos for s in plan.shards}
    num_done = 0
    left = list(reversed(videos))
    waiting: dict[Future, int] = {}
    with _connected(settings.dask or "", len(plan.shards)) as client:
        while left or waiting:
            while left and len(waiting) < MAX_SUBMITTED:
                shard = left.pop()
                waiting[_submit(client, plan, store, settings, shard)] = shard
            for future in _finished(list(waiting)):
                shard = waiting.pop(future)
                if _lost_worker(future):
                    _check_scheduler(client, settings.dask)
                    attempts[shard] = attempts.get(shard, 0) + 1
                    if attempts[shard] >= MAX_ATTEMPTS:
                        raise WorkerLostError(
                            f"{MAX_ATTEMPTS} workers died over shard {shard}; look at their logs (memory is the usual "
                            "reason), then run again: finished shards are kept"
                        )
                    on_event(Note("extract", f"shard {shard}: its worker died, doing it again", "warning"))
                    left.append(shard)
                    continue
                for name, count in future.result().items():
                    totals[name] = totals.get(name, 0) + count
                num_done += videos[shard]
                on_event(Progress("extract", num_done, plan.num_videos))
    return totals


def _submit(client: Client, plan: ExtractPlan, store: FeatureStore, settings: Settings, shard: int) -> Future:
    task = {
        "recipe": plan.recipe.model_dump(mode="json", by_alias=True),
        "store": store.url,
        "settings": settings.model_dump(mode="json", exclude={"roots"}),  # each worker's own
        "shard": shard,
        "retry": list(plan.retry),
        "targets": [t.label for t in plan.targets],
    }
    return client.submit(extract_shard, task, pure=False)


def _finished(futures: list[Future]) -> list[Future]:
    from distributed import wait

    with suppress(CancelledError):  # lost with the scheduler: their status says so
        wait(futures, return_when="FIRST_COMPLETED")
    return [future for future in futures if future.done()]


def _lost_worker(future: Future) -> bool:
    """Whether a task has no result because workers died; its own errors are raised by `result`."""
    from distributed import KilledWorker

    if future.status in ("lost", "cancelled"):
        return True
    return future.status == "error" and isinstance(future.exception(), KilledWorker)


def _check_scheduler(client: Client, where: str | None) -> None:
    """Raise if tasks are lost because there is no scheduler any more."""
    try:
        client.scheduler_info(n_workers=0)
        client.run_on_scheduler(_answer)
    except Exception as err:
        raise WorkerLostError(
            f"expected the Dask scheduler at {where} to go on, found it gone ({type(err).__name__}); start it and run "
            "again: finished shards are kept"
        ) from err


def _answer() -> bool:
    return True


@contextmanager
def _connected(where: str, num_shards: int) -> Iterator[Client]:
    """Connect to a scheduler, or start a local cluster and stop it at the end."""
    import dask
    from distributed import Client, LocalCluster

    if not where.strip().isdigit():
        try:
            client = Client(where, timeout=CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError, ValueError) as err:
            raise StorageError(f"expected a Dask scheduler at {where}, could not connect: {err}") from err
        with client:
            yield client
        return
    num_workers = int(where)
    if num_workers < 1:
        raise InvalidInputError(f"expected 1 or more local Dask workers, found {where}")
    # 1.0 of a worker's memory is no reason to end it: frames in flight are bounded by the engine
    options = {"distributed.scheduler.allowed-failures": MAX_ATTEMPTS, "distributed.admin.tick.limit": "60s"}
    with (
        dask.config.set(options),
        LocalCluster(
            n_workers=min(num_workers, max(num_shards, 1)),
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address=None,
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _device_of_worker(device: str) -> str:
    """Give each worker of a machine a GPU of its own, unless CUDA_VISIBLE_DEVICES has done that already."""
    if device not in ("auto", "cuda"):
        return device
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count < 2 or os.environ.get("CUDA_VISIBLE_DEVICES"):
        return device
    from distributed import get_worker

    name = str(get_worker().name)
    return f"cuda:{int(name) % count}" if name.isdigit() else device
