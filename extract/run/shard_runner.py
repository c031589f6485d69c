"""Shards of a plan in one process: backbones, decoders and writers, kept for as many as come."""

from __future__ import annotations

import queue
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from extract.catalog.find_videos import resolve_video
from extract.decoding.decode_pool import DecodePool
from extract.decoding.versions import decoder_options
from extract.device.encode import Encoder, batch_crops
from extract.device.memory import frame_budget_bytes
from extract.places.elsewhere import Place
from extract.places.files import Files
from extract.rates import Rates
from extract.run.decode_line import VideoOpener
from extract.run.engine import Engine, OpenShard
from extract.run.fetch_ahead import FetchAhead
from extract.run.plan import ExtractPlan
from extract.run.preview_keeping import PreviewKeeper
from extract.run.shard_work import TargetShard, VideoWork
from extract.run.shared_reading import together
from extract.run.tally import Tally
from extract.targets import ResolvedTarget
from pipeline.compute.threads import num_cores
from pipeline.events import Event, Note, OnEvent, ignore
from pipeline.settings import Settings

if TYPE_CHECKING:
    import torch

    from extract.backbones import Backbone
    from pipeline import FeatureStore

CLAIM_TTL_S = 300.0
MAX_DECODERS = 48
"""Of one GPU: each is a process of about 80 MiB, and of so many the host's one thread for the GPU is the limit."""


def run_shards(
    plan: ExtractPlan,
    store: FeatureStore,
    settings: Settings,
    on_event: OnEvent = ignore,
    rates: Rates | None = None,
    backbones: dict[str, Backbone] | None = None,
    source: VideoOpener | None = None,
) -> Tally:
    """Do the shards of a plan in this process; see :func:`extract.run.stage.run_extract`."""
    if not plan.shards:
        return Tally()
    with ShardRunner(plan, store, settings, on_event, rates or Rates(), backbones, source) as runner:
        return runner.run()


def decoders_beside(device: torch.device, num_threads: int) -> int:
    """Return how many processes decode where nobody says so.

    On a CPU they share the cores with as many networks. Beside a GPU all cores but one are theirs, or those that fall
    to one of several GPUs: it waits for frames, not they for it.
    """
    if device.type == "cpu":
        return max(1, num_threads // 2)
    import torch

    return min(max(1, num_cores() // max(1, torch.cuda.device_count()) - 1), MAX_DECODERS)


def counts_of(plan: ExtractPlan, tally: Tally) -> dict[str, int]:
    """Return what a report counts: the work of this run, and the shards that were complete before it."""
    did = tally.counts()
    did["shards_skipped"] = did.get("shards_skipped", 0) + plan.num_shards_done
    return did


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
    source : VideoOpener, optional
        See :func:`extract.run.stage.run_extract`.
    """

    def __init__(
        self,
        plan: ExtractPlan,
        store: FeatureStore,
        settings: Settings,
        on_event: OnEvent,
        rates: Rates,
        backbones: dict[str, Backbone] | None = None,
        source: VideoOpener | None = None,
    ) -> None:
        import torch

        from extract.backbones import load_backbone, say_uncompiled_once
        from pipeline.compute.devices import pick_device

        self._plan = plan
        self._settings = settings
        self._on_event = on_event
        self._rates = rates
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._device = pick_device(settings.device)
        self._num_threads = max(1, torch.get_num_threads()) if self._device.type == "cpu" else 1
        self._dataset = store.dataset(plan.recipe.dataset.name)
        self._backbones = backbones if backbones is not None else {}
        tell = say_uncompiled_once(self._events.put)
        for name, spec in {t.target.backbone: t.spec for t in plan.targets}.items():
            if name not in self._backbones:
                self._backbones[name] = load_backbone(
                    spec,
                    settings,
                    self._device,
                    expected_crops=plan.num_crops_lacking(name),
                    on_event=tell,
                    as_before=plan.ways.get(name),
                )
        self._recorded = dict(plan.ways)
        self._prepare(set(self._backbones) - set(self._recorded))  # now, so that their sets can be begun with it
        self._writers = {t.label: self._open_writer(t) for t in plan.targets}
        for target in plan.targets:  # of workers that begin a set at once, one was first
            if (recorded := self._writers[target.label].network) is not None:
                self._recorded.setdefault(target.target.backbone, recorded)
        for name, way in self._recorded.items():
            self._backbones[name].follow(way)
        self._prepare(set(self._recorded))
        self._handing_over: list[Any] = []
        num_workers = settings.workers or decoders_beside(self._device, self._num_threads)
        self._files = Files.of(settings)
        self._ahead = FetchAhead(self._files)
        options = decoder_options(settings)
        self._pool = None if source is not None else DecodePool(num_workers, files=self._files, **options)
        self._source: VideoOpener = source or cast(VideoOpener, self._pool)

    def _prepare(self, names: Container[str]) -> None:
        """Decide how networks run, before anything is decoded, and make them ready for batches of the size to come."""
        from pipeline.compute.threads import at_most_threads

        with at_most_threads(1):  # as extraction runs them on a CPU
            for target in self._plan.targets:
                if target.target.backbone in names and target.sound is None:
                    frames, side = len(target.positions), target.size_px
                    batch = batch_crops(frames, side, self._device.type)
                    self._backbones[target.target.backbone].prepare((batch, 3, frames, side, side))

    def __enter__(self) -> ShardRunner:
        return self

    def __exit__(self, *exc: object) -> None:
        for claim in self._handing_over:  # of a shard that failed between its claims and its work
            claim.release()
        self._ahead.close()
        if self._pool is not None:
            self._pool.close()

    def _open_writer(self, target: ResolvedTarget) -> Any:
        name = target.target.backbone
        self._dataset.define_crop_set(target.crops, target.policy)
        return self._dataset.writer(
            target.crops,
            target.feature_set,
            fingerprint=dict(target.fingerprint),
            dim=self._backbones[name].dim,
            dtype=target.spec.dtype,
            recipe=self._plan.recipe.model_dump(mode="json", by_alias=True),
            accept=self._plan.recipe.accept,
            network=self._recorded.get(name, self._backbones[name].way),
        )

    def run(self) -> Tally:
        """Do every shard of the plan; those that other workers hold are waited for at the end."""
        wanted = self._plan.recipe.previews
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
            on_stop=self._files.stop,
            previews=None if wanted is None else PreviewKeeper(wanted, self._dataset),
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
            backbone = self._backbones[target.target.backbone]
            parts.append(TargetShard(target, writer, tasks[0], claim, backbone.dim, backbone))
        return parts, others

    def _open(self, shard: int, parts: Sequence[TargetShard]) -> OpenShard:
        rows = np.unique(np.concatenate([part.task.rows for part in parts]))
        videos = self._dataset.lines_of(rows).to_pylist()
        looked_at = self._dataset.looked_at()
        for video in videos:
            video["added_at"] = looked_at.get(video["row"], video["added_at"])
        works = [
            VideoWork(video, self._place_of(video), [p for p in parts if video["row"] in p.place]) for video in videos
        ]
        return OpenShard(shard, parts, self._ahead.of(list(together(works, self._source.num_workers))))

    def _place_of(self, video: Mapping[str, Any]) -> Place:
        return resolve_video(
            video["video_id"], video["uri"], self._settings, num_bytes=video["bytes"], sha256=video["sha256"]
        )
