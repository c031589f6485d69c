"""Rows that are parts of one file, decoded together: it is opened once, and what several show is decoded once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from extract.decoding.decode import DecodedFrames, VideoReader
from extract.places.elsewhere import Elsewhere
from extract.run.shard_work import VideoWork
from extract.run.video_job import (
    DEFAULT_MAX_BYTES,
    Picks,
    VideoFrames,
    VideoJob,
    check_unchanged,
    failed_video,
    listen,
    locate_crops,
    outcome_of,
    plan_reads,
    read_video,
)
from pipeline.errors import VideoError

MIN_TOGETHER = 8
"""Rows of a file are shared out among decoders, but not in smaller groups: each opens the file again."""


@dataclass(frozen=True)
class _Wanted:
    """What one row wants of the file."""

    at: int
    """Its place among the jobs."""
    job: VideoJob
    frames: np.ndarray
    picks: list[Picks]


def together(works: Sequence[VideoWork], num_decoders: int) -> Iterator[tuple[VideoWork, ...]]:
    """Yield the works of a shard in groups: parts of one file stand together, in the order of time.

    Parameters
    ----------
    works : sequence of VideoWork
    num_decoders : int
        A file of many rows is shared out among so many.
    """
    by_file: dict[object, list[VideoWork]] = {}
    for work in works:
        shares = work.is_part and work.needs_frames
        by_file.setdefault(work.job.path if shares else (work.row,), []).append(work)
    for group in by_file.values():
        size = max(MIN_TOGETHER, -(-len(group) // max(num_decoders, 1)))
        ordered = sorted(group, key=lambda work: work.job.part.start_frame)
        yield from (tuple(ordered[at : at + size]) for at in range(0, len(ordered), size))


def read_parts(
    jobs: Sequence[VideoJob],
    open_reader: Callable[[Elsewhere | str], VideoReader],
    deliver: Callable[[int, VideoFrames], None],
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> list[VideoFrames]:
    """Decode parts of one file in one pass; each comes out as if it had been read alone.

    Parameters
    ----------
    jobs : sequence of VideoJob
        Of the same file.
    open_reader : callable
        Gives the reader of a place.
    deliver : callable
        Takes the place of a job among `jobs`, and its frames.
    max_bytes : int
        Frames at once; a part that needs more is read alone, in groups.

    Returns
    -------
    list of VideoFrames
        The outcome of each, without frames.
    """
    started = time.perf_counter()
    found: dict[int, VideoFrames] = {}
    waited_s, is_open = 0.0, False
    try:
        with open_reader(jobs[0].path) as reader:
            if reader.num_frames == 0:
                raise VideoError("no frame could be decoded")
            is_open = True
            versions = {"decoder": f"{reader.decoder_name} {reader.decoder_version}"}
            max_frames = max(1, max_bytes // max(reader.height * reader.width * 3, 1))
            for batch in _batches(_plan(jobs, reader, found), max_frames):
                union = np.unique(np.concatenate([one.frames for one in batch]))
                begun = time.perf_counter()
                decoded = reader.read(union)
                seconds = (time.perf_counter() - begun) / len(batch)
                for one in batch:
                    own, num_found = _own(one, decoded, reader)
                    sounds = listen(one.job, reader)
                    before = time.perf_counter()
                    times_s = reader.frame_times_s[own.indices]
                    deliver(one.at, locate_crops(one.job, one.picks, own, seconds, times_s))
                    if sounds is not None:
                        deliver(one.at, sounds)
                    waited_s += time.perf_counter() - before
                    found[one.at] = outcome_of(
                        one.job,
                        len(one.frames),
                        num_found,
                        own.error,
                        own.damage,
                        seconds,
                        versions,
                        None if sounds is None else sounds.sound_error,
                    )
    except VideoError as failed:
        if not is_open:
            seconds = time.perf_counter() - started - waited_s
            return [failed_video(job, str(failed), failed.status, seconds / len(jobs)) for job in jobs]
    for k, job in enumerate(jobs):
        if k not in found:  # too large to share, or behind something that ended the decoder: it may be well by itself
            found[k] = read_video(job, open_reader, partial(deliver, k), max_bytes)
    return [found[k] for k in range(len(jobs))]


def _plan(jobs: Sequence[VideoJob], reader: VideoReader, found: dict[int, VideoFrames]) -> Iterator[_Wanted]:
    for k, job in enumerate(jobs):
        try:
            check_unchanged(job, reader)
        except VideoError as changed:
            found[k] = failed_video(job, str(changed), changed.status)
            continue
        frames, picks = plan_reads(job, reader.frame_times_s)
        yield _Wanted(k, job, frames, picks)


def _batches(wanted: Iterator[_Wanted], max_frames: int) -> Iterator[list[_Wanted]]:
    """Put rows together, in the order of time, while the frames of all fit; what is too large alone is left out."""
    batch: list[_Wanted] = []
    union: set[int] = set()
    for one in sorted(wanted, key=lambda one: int(one.frames[0]) if len(one.frames) else 0):
        own = set(one.frames.tolist())
        if not own or len(own) > max_frames:
            continue
        if batch and len(union | own) > max_frames:
            yield batch
            batch, union = [], set()
        batch.append(one)
        union |= own
    if batch:
        yield batch


def _own(one: _Wanted, decoded: DecodedFrames, reader: VideoReader) -> tuple[DecodedFrames, int]:
    """Return what of the decoded frames lies in a row, with the trouble that is its own, and how many it wanted."""
    first, stop = np.searchsorted(decoded.indices, [one.frames[0], one.frames[-1] + 1])
    numbers = decoded.indices[first:stop]
    mine = np.isin(numbers, one.frames)
    untrue = None if decoded.untrue is None else decoded.untrue[first:stop]
    is_damaged = reader.info.damage is not None or (untrue is not None and bool(untrue[mine].any()))
    own = DecodedFrames(
        numbers,
        decoded.frames[first:stop],
        decoded.error if mine.sum() < len(one.frames) else reader.info.stops_early,
        untrue if is_damaged else None,
        decoded.damage if is_damaged else None,
    )
    return own, int(mine.sum())
