"""The stage `extract`: videos in, crop features out, shard by shard, only what is missing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from extract.rates import Rates
from extract.run.decode_line import VideoOpener
from extract.run.distributed import run_on_dask
from extract.run.plan import ExtractPlan, ShardPlan, TargetWork, plan_extract
from extract.run.shard_runner import counts_of, run_shards
from extract.run.tally import Tally
from pipeline.errors import NoDataError, NotFoundError
from pipeline.events import OnEvent, StageFinished, StageStarted, ignore
from pipeline.reports import StageReport
from pipeline.settings import Settings

if TYPE_CHECKING:
    from extract.backbones import Backbone
    from pipeline import Dataset, FeatureStore

__all__ = ["ExtractPlan", "ShardPlan", "TargetWork", "plan_extract", "run_extract"]


def run_extract(
    plan: ExtractPlan,
    store: FeatureStore,
    settings: Settings,
    on_event: OnEvent = ignore,
    *,
    backbones: dict[str, Backbone] | None = None,
    source: VideoOpener | None = None,
) -> StageReport:
    """Compute the features of a plan and commit them, shard by shard.

    Every video is decoded once for all crop sets, backbones and streams. Safe
    to run again, to kill, and to run several times at once on one store.

    Parameters
    ----------
    plan : ExtractPlan
    store : FeatureStore
        Open for writing.
    settings : Settings
        With `dask` set, shards are tasks on a Dask cluster.
    on_event : callable, optional
    backbones : dict, optional
        Networks by name, kept by the caller between runs of the same plan; what is missing is loaded into it.
    source : VideoOpener, optional
        What opens videos, and stays open; None: a pool of processes of this run.

    Returns
    -------
    StageReport
        `did` counts shards_done, shards_skipped (complete already, or done by another worker meanwhile), videos_ok,
        videos_failed (any status but ok) and crops; `details` has rates.
    """
    started = time.perf_counter()
    if not plan.is_catalogued or plan.waiting:
        wanted = [one.product.name for one in plan.standings]
        plan = plan_extract(plan.recipe, store, settings, retry=plan.retry, targets=wanted)
        if not plan.is_catalogued:
            raise NoDataError(
                f"expected the dataset {plan.recipe.dataset.name} in {store.url}, found none; run catalog first"
            )
        if plan.waiting:
            names = ", ".join(sorted({str(one.waits_for) for one in plan.waiting}))
            raise NotFoundError(
                f"expected {names} in dataset {plan.recipe.dataset.name}, found none; run `scale pretrain` first"
            )
    if not store.dataset(plan.recipe.dataset.name).num_rows:
        raise NoDataError(
            f"expected videos in the catalogue of {plan.recipe.dataset.name}, found none (was it interrupted?); run "
            "catalog first"
        )
    on_event(StageStarted("extract", plan.num_videos, "videos", plan.summary()))
    rates, tally = Rates(), Tally()
    if plan.shards and settings.dask:
        did = run_on_dask(plan, store, settings, on_event)
        did["shards_skipped"] = did.get("shards_skipped", 0) + plan.num_shards_done
    else:
        tally = run_shards(plan, store, settings, on_event, rates, backbones, source)
        did = counts_of(plan, tally)
    dataset = store.dataset(plan.recipe.dataset.name)
    seconds = time.perf_counter() - started
    report = StageReport(
        stage="extract",
        recipe=plan.recipe.name,
        did=did,
        seconds=seconds,
        num_bytes=tally.num_bytes,
        skipped=tuple(sorted(tally.skipped, key=lambda s: s.row)),
        fingerprint=plan.fingerprint,
        snapshot=dataset.snapshot(),
        details={"rates": rates.as_details(), "statuses": tally.count_statuses()} | _whether_usable(did, plan, dataset),
    )
    on_event(StageFinished("extract", _summary(report), seconds))
    return report


def _whether_usable(did: Mapping[str, int], plan: ExtractPlan, dataset: Dataset) -> dict[str, int]:
    """Return `num_usable` 0 where something was extracted, now or before, and no video of the dataset has a crop."""
    if did.get("videos_ok"):
        return {}
    seen = False
    for target in plan.targets:
        try:
            ledger = dataset._ledger(target.crops, target.feature_set)
        except NotFoundError:
            continue
        for shard in ledger.generations:
            entry = ledger.entry(shard)
            if entry is not None and (entry.num_valid > 0).any():
                return {}
            seen = seen or entry is not None
    return {"num_usable": 0} if seen else {}


def _summary(report: StageReport) -> str:
    did = report.did
    if not did["shards_done"] and not did["videos_ok"] and not did["videos_failed"]:
        return f"nothing to do: {did['shards_skipped']} shards are complete"
    return f"{did['shards_done']} shards, {did['crops']} features, {did['videos_failed']} videos not ok"
