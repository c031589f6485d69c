"""The stage `extract`: videos in, crop features out, shard by shard, only what is missing."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from extract.catalog.find_videos import resolve_video
from extract.decoding.decode_pool import DecodePool
from extract.decoding.versions import decoder_options
from extract.device.encode import Encoder
from extract.device.memory import frame_budget_bytes
from extract.rates import Rates
from extract.run.engine import Engine, FrameSource, OpenShard
from extract.run.plan import ExtractPlan, ShardPlan, TargetWork, plan_extract
from extract.run.shard_work import TargetShard, VideoWork
from extract.run.tally import Tally
from extract.targets import ResolvedTarget
from pipeline.errors import InvalidInputError, NoDataError
from pipeline.events import Event, Note, OnEvent, StageFinished, StageStarted, ignore
from pipeline.reports import StageReport
from pipeline.settings import Settings

if TYPE_CHECKING:
    import torch

    from extract.backbones import Backbone
    from pipeline import FeatureStore

__all__ = ["ExtractPlan", "ShardPlan", "TargetWork", "plan_extract", "run_extract"]

CLAIM_TTL_S = 300.0


def run_extract(
    plan: ExtractPlan,
    store: FeatureStore,
    settings: Settings,
    on_event: OnEvent = ignore,
    *,
    backbones: dict[str, Backbone] | None = None,
    source: FrameSource | None = None,
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
    source : FrameSource, optional
        What opens videos, and stays open; None: a pool of processes of this run.

    Returns
    -------
    StageReport
        `did` counts shards_done, shards_skipped (complete already, or done by another worker meanwhile), videos_ok,
        videos_failed (any status but ok) and crops; `details` has rates.
    """
    started = time.perf_counter()
    if not plan.is_catalogued:
        plan = plan_extract(plan.recipe, store, settings, retry=plan.retry, targets=[t.label for t in plan.targets])
        if not plan.is_catalogued:
            raise NoDataError(
                f"expected the dataset {plan.recipe.dataset.name} in {store.url}, found none; run catalog first"
            )
    on_event(StageStarted("extract", plan.num_videos, "videos", plan.summary()))
    rates, tally = Rates(), Tally()
    if plan.shards and settings.dask:
        from extract.run.distributed import run_on_dask

        did = run_on_dask(plan, store, settings, on_event)
    else:
        if plan.shards:
            with ShardRunner(plan, store, settings, on_event, rates, backbones, source) as runner:
                tally = runner.run()
        did = tally.counts()
    did["shards_skipped"] = did.get("shards_skipped", 0) + plan.num_shards_done
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
        details={"rates": rates.as_details(), "statuses": tally.count_statuses()},
    )
    on_event(StageFinished("extract", _summary(report), seconds))
    return report


def _summary(report: StageReport) -> str:
    did = report.did
    if not did["shards_done"] and not did["videos_ok"] and not did["videos_failed"]:
        return f"nothing to do: {did['shards_skipped']} shards are complete"
    return f"{did['shards_done']} shards, {did['crops']} features, {did['videos_failed']} videos not ok"


class ShardRunner:
    """Backbones, decoders and writers of a plan, kept for as many shards as come.

    Parameters
    ----------
    plan : ExtractPlan
    store : FeatureStore
    settings : Settings
    on_event : callable
    rates : Rates
    backbones : dict, optional
        Networks that are loaded already; others are added.
    source : FrameSource, optional
        See :func:`run_extract`.
    """

    def __init__(
        self,
        plan: ExtractPlan,
        store: FeatureStore,
        settings: Settings,
        on_event: OnEvent,
        rates: Rates,
        backbones: dict[str, Backbone] | None = None,
        source: FrameSource | None = None,
    ) -> None:
        import torch

        from extract.backbones import load_backbone

        self._plan = plan
        self._settings = settings
        self._on_event = on_event
        self._rates = rates
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._device = pick_device(settings.device)
        self._num_threads = max(1, torch.get_num_threads()) if self._device.type == "cpu" else 1
        self._dataset = store.dataset(plan.recipe.dataset.name)
        self._backbones = backbones if backbones is not None else {}
        for name in dict.fromkeys(t.target.backbone for t in plan.targets):
            if name not in self._backbones:
                self._backbones[name] = load_backbone(
                    plan.recipe.backbones[name],
                    settings,
                    self._device,
                    expected_crops=plan.num_crops_of(name),
                    on_event=self._events.put,
                )
        self._writers = {t.label: self._open_writer(t) for t in plan.targets}
        self._handing_over: list[Any] = []
        num_workers = settings.workers or max(1, self._num_threads // 2)
        self._pool = None if source is not None else DecodePool(num_workers, **decoder_options(settings))
        self._source: FrameSource = source or cast(FrameSource, self._pool)

    def __enter__(self) -> ShardRunner:
        return self

    def __exit__(self, *exc: object) -> None:
        for claim in self._handing_over:  # of a shard that failed between its claims and its work
            claim.release()
        if self._pool is not None:
            self._pool.close()

    def _open_writer(self, target: ResolvedTarget) -> Any:
        self._dataset.define_crop_set(target.crops, target.policy)
        return self._dataset.writer(
            target.crops,
            target.feature_set,
            fingerprint=dict(target.fingerprint),
            dim=self._backbones[target.target.backbone].dim,
            dtype=target.spec.dtype,
            recipe=self._plan.recipe.model_dump(mode="json", by_alias=True),
            accept=self._plan.recipe.accept,
        )

    def run(self) -> Tally:
        """Do every shard of the plan; those that other workers hold are waited for at the end."""
        encoder = Encoder(self._plan.targets, self._backbones, rates=self._rates)
        engine = Engine(
            self._source,
            encoder,
            self._device,
            num_threads=self._num_threads,
            rates=self._rates,
            on_event=self._on_event,
            total=self._plan.num_videos,
            events=self._events,
            memory_bytes=frame_budget_bytes(),
        )
        engine.run(self._claimed_shards(engine.tally))
        for text in encoder.notes:
            self._on_event(Note("extract", text, "warning"))
        return engine.tally

    def _claimed_shards(self, tally: Tally) -> Iterator[OpenShard | None]:
        """Claim shard after shard. What another worker holds is tried again until it is done or its claim expires."""
        waiting: list[tuple[int, list[str]]] = [(s.shard, [t.label for t in s.targets]) for s in self._plan.shards]
        told = False
        while waiting:
            held = []
            for shard, labels in waiting:
                parts, others = self._claim(shard, labels, tally)
                if others:
                    held.append((shard, others))
                if parts:
                    yield self._open(shard, parts)
            if len(held) == len(waiting):
                if not told:
                    self._on_event(Note("extract", f"waiting for {len(held)} shards that other workers are at"))
                    told = True
                yield None
            waiting = held

    def _claim(self, shard: int, labels: Iterable[str], tally: Tally) -> tuple[list[TargetShard], list[str]]:
        parts, others = [], []
        self._handing_over = []
        for label in labels:
            writer = self._writers[label]
            tasks = writer.todo(shards=[shard], retry=self._plan.retry)
            if not tasks:
                tally.shards_by_others += 1
                continue
            claim = writer.claim(tasks[0], ttl_s=CLAIM_TTL_S)
            if claim is None:
                others.append(label)
                continue
            self._handing_over.append(claim)
            target = next(t for t in self._plan.targets if t.label == label)
            dim = self._backbones[target.target.backbone].dim
            parts.append(TargetShard(target, writer, tasks[0], claim, dim))
        return parts, others

    def _open(self, shard: int, parts: Sequence[TargetShard]) -> OpenShard:
        rows = np.unique(np.concatenate([part.task.rows for part in parts]))
        videos = self._dataset.videos.slice(int(rows[0]), int(rows[-1] - rows[0]) + 1).to_pylist()
        wanted = set(rows.tolist())
        works = [
            VideoWork(video, self._path_of(video), [p for p in parts if video["row"] in p.place])
            for video in videos
            if video["row"] in wanted
        ]
        return OpenShard(shard, parts, works)

    def _path_of(self, video: Mapping[str, Any]) -> str:
        return str(resolve_video(video["video_id"], video["uri"], self._settings))


def pick_device(name: str) -> torch.device:
    """Return the device that a name means; ``auto`` takes a GPU when there is one.

    Raises
    ------
    InvalidInputError
        If the name is unknown, or the device is not there.
    """
    import torch

    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if num_gpus else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise InvalidInputError(f"expected a device auto, cpu, cuda or cuda:N, found {name!r}")
    if kind == "cuda" and int(number or 0) >= num_gpus:
        raise InvalidInputError(f"expected the device {name}, found {num_gpus} CUDA devices; use --device cpu")
    return torch.device(name)
