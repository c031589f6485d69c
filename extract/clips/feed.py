"""The clips of a dataset as a pretraining takes them: decoded by a pool, cached, augmented, batch after batch."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from extract.catalog.find_videos import resolve_video
from extract.clips.augment import PLAIN, augment, draw_augmentation
from extract.clips.cache import ClipCache
from extract.clips.decoding import VideoClips, decode_clips
from extract.clips.rows import FeedRows
from extract.clips.schedule import Drawing, Schedule
from extract.crops.draws import Draws
from extract.decoding.decode_pool import DecodePool
from extract.decoding.versions import decoder_identity, decoder_options
from extract.pixels.preprocess import normalise
from extract.pixels.streams import apply_stream, check_stream, needs_previous
from extract.places.files import Files
from pipeline.compute.clips import ClipBatch, LabelledRows
from pipeline.compute.threads import num_threads
from pipeline.fingerprint import fingerprint
from pipeline.recipe import PretrainSpec
from pipeline.recipe.crops import CropPolicyBase
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline import Dataset

MAX_SEED = 2**31
MAX_LOOK_BYTES = 512 << 20
"""Of the clips that a probe looks at: up to so many are kept, as every look asks for the same."""
WAIT_S = 0.05


class ClipFeed:
    """See the module; implements :class:`pipeline.compute.clips.ClipSource`.

    Parameters
    ----------
    dataset : Dataset
    rows : FeedRows
        Which videos, in which groups.
    spec : PretrainSpec
    settings : Settings
        Where videos lie, how many decode at once, and where the cache is.
    device : torch.device
        Where clips are augmented.
    share : tuple of int
        Which process this is, of how many: it hands out its part of every batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: FeedRows,
        spec: PretrainSpec,
        settings: Settings,
        device: torch.device,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        for stream in spec.streams:
            check_stream(stream)
        self._dataset, self._rows, self._spec, self._settings, self._device = dataset, rows, spec, settings, device
        self._rank, self._num_processes = share
        self._with_previous = any(needs_previous(stream) for stream in spec.streams)
        self._like = VideoClips.empty(spec.clips, self._with_previous)
        parts = spec.num_parts(len(rows.learned))
        self.schedule = Schedule(len(rows.learned), spec.batch_size, spec.epochs, spec.reuse, parts, spec.seed)
        options = decoder_options(settings)
        self._pool = DecodePool(settings.workers or num_threads(), files=Files.of(settings), **options)
        self._decoders = ThreadPoolExecutor(self._pool.num_workers, thread_name_prefix="clips")
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="clips-ahead")
        self._closing = threading.Event()
        self._filling: dict[Drawing, Future[ClipCache]] = {}
        self._folder = settings.cache_folder / "clips" / self._key()

    @property
    def num_videos(self) -> int:
        """Videos that are learned from."""
        return len(self._rows.learned)

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch."""
        return self.schedule.steps_per_epoch

    @property
    def held_out(self) -> LabelledRows | None:
        """Rows for the probe."""
        return self._rows.held_out

    @property
    def gallery(self) -> LabelledRows | None:
        """Rows that are learned from, with their labels."""
        return self._rows.gallery

    def _key(self) -> str:
        """Name what decides the clips, so that a training which goes on finds those of the one before."""
        videos = self._rows.videos(np.union1d(self._rows.learned, self._rows.looked_at))
        content = {
            "store": self._dataset.backend.url,
            "dataset": self._dataset.name,
            "clips": self._spec.clips.model_dump(mode="json"),
            "previous": self._with_previous,
            "decoder": decoder_identity(self._settings),
            "videos": fingerprint([[v["row"], v["video_id"], v.get("bytes"), v.get("sha256")] for v in videos]),
            "schedule": [self._spec.seed, self._spec.reuse, self.schedule.num_parts],
        }
        return fingerprint(content)[:24]

    def batches(self, first_step: int, last_step: int) -> Iterator[ClipBatch]:
        """Hand out the batches of these steps; the next clips are decoded meanwhile."""
        current: Drawing | None = None
        for step in range(first_step, last_step):
            place = self.schedule.place(step)
            if place.drawing != current:
                if current is not None:
                    done = self._filling.pop(current).result()
                    if self._rank == 0:  # all others are past it, too: a step needs everyone's features
                        done.drop()
                current = place.drawing
                cache = self._fill(current).result()
                members = self.schedule.members(current)
                if (following := self.schedule.after(current)) is not None:
                    self._fill(following)
            yield self._batch(step, cache, members, place.positions, current)

    def _batch(
        self, step: int, cache: ClipCache, members: np.ndarray, positions: np.ndarray, drawing: Drawing
    ) -> ClipBatch:
        spec = self._spec
        views, num_videos = spec.views_per_step, len(positions)
        draws = Draws("augment", spec.seed, step)
        chosen = _choose_views(spec, draws, num_videos)
        drawn = draw_augmentation(spec.augment, draws, num_videos, views)
        begin, end = (len(positions) * k // self._num_processes for k in (self._rank, self._rank + 1))
        mine = slice(0, num_videos) if spec.augment.foreground is not None else slice(begin, end)
        taken = cache.read(positions[mine], lambda at: self._decode(members[np.asarray(at)], drawing), chosen[mine])
        backgrounds = None
        if spec.augment.foreground is not None:
            backgrounds = self._to_device(taken["current"])
            taken = {name: array[begin:end] for name, array in taken.items()}
        clips = [self._to_device(taken[name]) for name in ("current", "previous") if name in taken]
        share = spec.augment.foreground.share if spec.augment.foreground is not None else 0.5
        augmented = augment(clips, drawn.share(begin * views, end * views), spec.encoder.size_px, backgrounds, share)
        rows = self._rows.learned[members[positions[begin:end]]]
        return self._as_batch(augmented, taken["geometry"], taken["valid"], rows)

    def plain(self, rows: np.ndarray) -> Iterator[ClipBatch]:
        """Hand out the clips of these rows in order, not augmented: those of generation 0."""
        spec = self._spec
        size = max(1, spec.batch_size * spec.views_per_step // spec.clips.num_crops)
        for begin in range(0, len(rows), size):
            some = rows[begin : begin + size]
            arrays = self._plain(some)
            clips = [self._to_device(arrays[name]) for name in ("current", "previous") if name in arrays]
            drawn = draw_augmentation(PLAIN, Draws("plain"), len(some), spec.clips.num_crops)
            cut = augment(clips, drawn, spec.encoder.size_px)
            yield self._as_batch(cut, arrays["geometry"], arrays["valid"], some)

    def _plain(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the clips of these rows, of the cache where all that the probe asks for are few."""
        policy, looked_at = self._policy(Drawing(0, 0)), self._rows.looked_at
        num_bytes = len(looked_at) * sum(array.nbytes for array in self._like.arrays.values())
        if num_bytes > MAX_LOOK_BYTES or not np.isin(rows, looked_at).all():
            decoded = self._decode_rows(rows, policy)
            return {name: np.stack([one.arrays[name] for one in decoded]) for name in self._like.arrays}
        cache = ClipCache(self._folder / "looked-at", len(looked_at), self._like)
        at = np.searchsorted(looked_at, rows)
        return cache.read(at, lambda some: self._decode_rows(looked_at[np.asarray(some)], policy))

    def _as_batch(self, clips: list[Tensor], geometry: np.ndarray, valid: np.ndarray, rows: np.ndarray) -> ClipBatch:
        encoder = self._spec.encoder
        seen: dict[str, Tensor] = {}
        for stream in self._spec.streams:
            pixels = apply_stream(stream, clips[0], clips[1] if len(clips) > 1 else None)
            normed = normalise(pixels, encoder.mean, encoder.std).contiguous(memory_format=torch.channels_last_3d)
            seen[stream] = normed.unflatten(0, valid.shape)
        groups = self._rows.groups_of(rows)
        return ClipBatch(seen, *(torch.from_numpy(np.ascontiguousarray(x)) for x in (geometry, valid, rows, groups)))

    def _to_device(self, clips: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(clips)).flatten(0, 1).to(self._device)

    # ---- decoding

    def _fill(self, drawing: Drawing) -> Future[ClipCache]:
        if drawing not in self._filling:
            self._filling[drawing] = self._ahead.submit(self._filled, drawing)
        return self._filling[drawing]

    def _filled(self, drawing: Drawing) -> ClipCache:
        members = self.schedule.members(drawing)
        folder = self._folder / f"{drawing.generation}-{drawing.part}"
        cache = ClipCache(folder, len(members), self._like)
        while self._rank and cache.missing and not self._closing.wait(WAIT_S):  # the first process decodes for all
            pass
        for shard in () if self._rank else cache.missing:
            cache.write(shard, self._decode(members[list(cache.positions(shard))], drawing))
        return cache

    def _decode(self, members: np.ndarray, drawing: Drawing) -> list[VideoClips]:
        return self._decode_rows(self._rows.learned[members], self._policy(drawing))

    def _policy(self, drawing: Drawing) -> CropPolicyBase:
        """Return the crop policy with the seed of a generation."""
        policy = self._spec.clips
        seed = int(fingerprint([self._spec.seed, policy.seed, drawing.generation])[:12], 16) % MAX_SEED
        return policy.model_copy(update={"seed": seed})

    def _decode_rows(self, rows: np.ndarray, policy: CropPolicyBase) -> list[VideoClips]:
        def decode(video: Mapping[str, Any]) -> VideoClips:
            known = {"num_bytes": video["bytes"], "sha256": video["sha256"]}
            place = resolve_video(video["video_id"], video["uri"], self._settings, **known)
            return decode_clips(video, place, policy, self._pool.open_reader, with_previous=self._with_previous)

        return list(self._decoders.map(decode, self._rows.videos(rows)))

    def close(self) -> None:
        """End threads and decoding processes; what is decoded stays for a training that goes on."""
        self._closing.set()
        for future in self._filling.values():
            future.cancel()
        self._ahead.shutdown(wait=True, cancel_futures=True)
        self._decoders.shutdown(wait=True, cancel_futures=True)
        self._pool.close()

    def clear(self) -> None:
        """Remove the clips; the training is done."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _choose_views(spec: PretrainSpec, draws: Draws, num_videos: int) -> np.ndarray:
    """Return which clips of each video a step sees, (B, views); pairs that CVRL's law has drawn stay together."""
    num_crops, views = spec.clips.num_crops, spec.views_per_step
    if spec.views is None:
        return np.tile(np.arange(num_crops), (num_videos, 1))
    if getattr(spec.clips, "interval_exponent", None) is not None and views % 2 == 0:
        pairs = np.argsort(draws.unit(num_videos * (num_crops // 2)).reshape(num_videos, -1), axis=1)[:, : views // 2]
        return np.stack([2 * pairs, 2 * pairs + 1], axis=2).reshape(num_videos, views)
    return np.argsort(draws.unit(num_videos * num_crops).reshape(num_videos, -1), axis=1)[:, :views]
