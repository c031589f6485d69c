"""What it costs to decode: in threads, behind a process boundary, with another decoder, crop by crop; and to inspect.

python benchmarks/decode.py [--data FOLDER] [--videos 24] [--short]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._table import write_results
from extract.arrangements import write_arrangements
from extract.decoding.decode import VideoReader
from extract.decoding.decode_pool import DecodePool, num_cores
from extract.decoding.frame_index import sample_frame_indices
from extract.decoding.inspect import inspect_video
from extract.decoding.opening import open_reader
from pipeline.errors import MissingDependencyError

NUM_CROPS, NUM_FRAMES, STRIDE, FPS = 16, 16, 4, 30
SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "ucf101_2class"


def crop_frames(times_s: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Return the frames of 16 random crops of 16 frames, 4/30 s apart."""
    starts = np.random.default_rng(seed).uniform(0, max(times_s[-1] - NUM_FRAMES * STRIDE / FPS, 0), NUM_CROPS)
    wanted = starts[:, None] + np.arange(NUM_FRAMES) * STRIDE / FPS
    return [np.unique(row) for row in sample_frame_indices(times_s, wanted)]


def union(info: object, times_s: np.ndarray) -> np.ndarray:
    """Return the frames that all crops need."""
    return np.unique(np.concatenate(crop_frames(times_s)))


def read_once(path: Path, opener: Callable[..., VideoReader] = open_reader, **options: str) -> None:
    """Read the union of the frames in one pass."""
    with opener(path, **options) as reader:
        assert len(reader.read(union(None, reader.frame_times_s)).frames)


def read_per_crop(path: Path) -> None:
    """Open and decode the file once for each crop: the plain way."""
    for k in range(NUM_CROPS):
        with open_reader(path) as reader:
            assert len(reader.read(crop_frames(reader.frame_times_s)[k]).frames)


def in_threads(work: Callable[[Path], None], paths: list[Path], workers: int) -> None:
    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(work, paths))


def measure(ways: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Return the best time of each way in seconds; the ways take turns, so that a busy machine slows all alike."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED if SHARED.is_dir() else None)
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = options.data
        if data is None:
            data = Path(folder)
            write_arrangements(data, videos_per_class=3)
        paths = sorted(p for p in data.rglob("*") if p.suffix in (".avi", ".mp4", ".mkv"))[: options.videos]
        if options.short:
            paths = paths[:8]
        cores = num_cores()
        with DecodePool(cores) as pool:
            list(pool.inspect_all(paths[:cores]))  # processes are up before the clock runs
            ways: dict[str, Callable[[], None]] = {
                "threads, one pass": lambda: in_threads(read_once, paths, cores),
                "processes, one pass": lambda: in_threads(lambda p: read_once(p, pool.open_reader), paths, cores),
                "one thread, one pass": lambda: in_threads(read_once, paths, 1),
                "threads, torchcodec": lambda: in_threads(lambda p: read_once(p, decoder="torchcodec"), paths, cores),
                "inspect, one thread": lambda: in_threads(lambda p: inspect_video(p, hash_bytes=True), paths, 1),  # type: ignore[arg-type,return-value]
                "inspect, processes": lambda: list(pool.inspect_all(paths)),  # type: ignore[dict-item,return-value]
            }
            try:
                read_once(paths[0], decoder="torchcodec")
            except MissingDependencyError:
                del ways["threads, torchcodec"]
            times = measure(ways, 1 if options.short else 4)
            times |= measure({"threads, crop by crop": lambda: in_threads(read_per_crop, paths, cores)}, 1)
    base, inspected = times["threads, one pass"], times["inspect, one thread"]
    rows = [
        {
            "way": name,
            "videos/s": f"{len(paths) / seconds:.1f}",
            "ratio": f"{(inspected if name.startswith('inspect') else base) / seconds:.2f}",
        }
        for name, seconds in times.items()
    ]
    write_results(
        "decode",
        "Decoding 16 crops of 16 frames a video, and inspecting",
        rows,
        packages=("av", "torchcodec"),
        notes=(
            f"{len(paths)} videos of {'UCF101' if 'ucf' in str(data) else data.name}, {cores} workers",
            "ratio: speed over `threads, one pass`; for inspection (with sha256) over one thread",
        ),
    )


if __name__ == "__main__":
    main()
