"""Extraction against the plain way, against the bare network, and its memory from 20 to 200 videos.

    python -m benchmarks.extract --data ../shared/data [--videos 48] [--memory]

All figures come from one run of this program: the plain way opens and decodes
a video for every crop and runs the eager float32 network on one video at a
time; the bare network sees batches that lie ready in memory, in as many
single-threaded streams as extraction uses.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks._table import write_results

NUM_CROPS = 16


def recipe(num_videos_glob: list[str], name: str = "bench"):
    from pipeline.recipe import parse_recipe

    return parse_recipe(
        {
            "name": name,
            "dataset": {"name": "bench", "videos": num_videos_glob, "shard_rows": 32},
            "crops": {
                "train16": {
                    "policy": "random", "num_crops": NUM_CROPS, "num_frames": 4, "stride": 12, "size_px": 160,
                    "short_side_px": [182, 228],
                }
            },
            "backbones": {
                "x3d_xs": {"kind": "pytorchvideo", "model": "x3d_xs", "weights": {"random": 0}, "dtype": "float32"}
            },
        }
    )  # fmt: skip


def link_videos(source: Path, folder: Path, count: int) -> list[str]:
    """Link `count` clips: the longer UCF101 ones first, then J-HMDB's; repeated where there are not enough."""
    clips = sorted(source.glob("ucf101_2class/**/*.avi")) + sorted(source.glob("jhmdb12/**/*.avi"))
    folder.mkdir(parents=True)
    names = []
    for k in range(count):
        clip = clips[k % len(clips)]
        (folder / f"{k:04d}{clip.suffix}").symlink_to(clip)
        names.append(f"{k:04d}{clip.suffix}")
    return names


def run_pipeline(folder: Path, store_path: Path, *, warm: bool = True):
    """Extract once with the network compiled beforehand; return the seconds of the run, the report and the store."""
    from extract import plan_catalog, plan_extract, run_catalog, run_extract
    from extract.backbones import load_backbone, optimise
    from pipeline import FeatureStore
    from pipeline.settings import Settings

    settings = Settings(data=folder)
    spec = recipe(["*.avi"])
    store = FeatureStore.create(str(store_path))
    run_catalog(plan_catalog(spec, store, settings), store, settings)
    kept = {}
    notes = []
    if warm:
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # extraction runs single-threaded streams
        backbone = load_backbone(spec.backbones["x3d_xs"], settings, "cpu")
        optimise(backbone, (2, 3, 4, 160, 160), 1_000_000, lambda e: notes.append(e.text))
        torch.set_num_threads(threads)
        kept["x3d_xs"] = backbone
    plan = plan_extract(spec, store, settings)
    started = time.perf_counter()
    report = run_extract(plan, store, settings, backbones=kept or None)
    return time.perf_counter() - started, report, store, kept, notes


def run_plain(folder: Path, store, num_videos: int):
    """Open and decode per crop, eager float32 as the zoo builds it, one video at a time."""
    import torch

    from extract.auditing import _target
    from extract.backbones.load import _build, _describe
    from extract.crops import draw_crops, facts_of
    from extract.decode import open_reader
    from extract.frame_picking import pick_frames
    from extract.preprocess import cut_crop, normalise
    from pipeline.settings import Settings

    settings = Settings(data=folder)
    spec = recipe(["*.avi"])
    target = _target(spec, "train16", "x3d_xs", settings)
    info, path = _describe(spec.backbones["x3d_xs"], settings)
    network = _build(spec.backbones["x3d_xs"], info, path).eval()
    ds = store.dataset("bench")
    videos = ds.videos.to_pylist()[:num_videos]
    features = []
    started = time.perf_counter()
    with torch.inference_mode():
        for video in videos:
            drawn = draw_crops(target.policy, video["video_id"], facts_of(video))
            clips = []
            for geometry in drawn.geometry:
                with open_reader(folder / video["video_id"]) as reader:
                    picks = pick_frames(geometry[None], target.policy, reader.frame_times_s, video["duration_s"])[0]
                    wanted = np.unique(picks)
                    frames = torch.from_numpy(np.array(reader.read(wanted).frames))
                clips.append(cut_crop(frames, np.searchsorted(wanted, picks), geometry, target.size_px))
            batch = normalise(torch.stack(clips), info.mean, info.std).contiguous()
            features.append(network(batch).numpy())
    seconds = time.perf_counter() - started
    return seconds, np.stack(features)


def bare_rate(backbone, seconds: float = 15.0) -> float:
    """Crops a second of the same network on batches that lie ready, in as many streams as there are cores."""
    import torch

    from extract.memory import keep_freed_memory

    counts: list[int] = []

    def work() -> None:
        torch.set_num_threads(1)
        keep_freed_memory()
        clips = torch.rand(2, 4, 160, 160, 3).permute(0, 4, 1, 2, 3)
        backbone(clips)
        done, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            backbone(clips)
            done += len(clips)
        counts.append(done)

    threads = [threading.Thread(target=work) for _ in range(torch.get_num_threads())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def peak_memory(source: Path, num_videos: int) -> dict[str, float]:
    """Run extraction of so many videos in a process of its own; return its peak resident memory."""
    code = (
        "import sys,json,resource;from pathlib import Path;from benchmarks.extract import run_pipeline;"
        "f,s=sys.argv[1:];t=run_pipeline(Path(f),Path(s),warm=False);"
        "print(json.dumps({'mib':resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024,'s':t[0]}))"
    )
    with tempfile.TemporaryDirectory() as scratch:
        link_videos(source, Path(scratch) / "videos", num_videos)
        done = subprocess.run(
            [sys.executable, "-c", code, f"{scratch}/videos", f"{scratch}/store"],
            capture_output=True, text=True, check=True, env=os.environ | {"TORCHDYNAMO_DISABLE": "1"},
        )  # fmt: skip
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of real videos")
    parser.add_argument("--videos", type=int, default=96)
    parser.add_argument("--plain-videos", type=int, default=12)
    parser.add_argument("--memory", action="store_true", help="also compare peak memory of 20 and 200 videos")
    options = parser.parse_args()
    source = options.data.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "videos"
        link_videos(source, folder, options.videos)
        seconds, report, store, kept, notes = run_pipeline(folder, Path(scratch) / "store")
        bare = bare_rate(kept["x3d_xs"])
        plain_s, plain = run_plain(folder, store, options.plain_videos)
        stored = store.dataset("bench").select(rows=np.arange(options.plain_videos)).features("train16", "x3d_xs")
        scale = np.abs(plain).max()
        difference = float(np.abs(np.asarray(stored.values, np.float32) - plain).max() / scale)
    pipeline_rate = report.did["crops"] / seconds
    plain_rate = plain.shape[0] * plain.shape[1] / plain_s
    rows = [
        {"what": "plain way", "crops/s": f"{plain_rate:.1f}", "ratio": "1"},
        {"what": "extraction, decoding and writing included", "crops/s": f"{pipeline_rate:.1f}",
         "ratio": f"{pipeline_rate / plain_rate:.2f} x plain; {pipeline_rate / bare:.2f} of bare"},
        {"what": "bare network, batches in memory", "crops/s": f"{bare:.1f}",
         "ratio": f"{bare / plain_rate:.2f} x plain"},
    ]  # fmt: skip
    notes = [
        f"{options.videos} clips (24 of UCF101, the rest J-HMDB), {NUM_CROPS} crops each, x3d_xs 4 x 160 px, "
        f"random weights; plain way on the first {options.plain_videos} (the long ones)",
        f"features equal to {difference:.1e} of the largest value",
        f"busy: {report.details['rates']}",
        *notes,
    ]
    if options.memory:
        few, many = (peak_memory(source, n) for n in (20, 200))
        notes.append(f"peak memory: 20 videos {few['mib']:.0f} MiB, 200 videos {many['mib']:.0f} MiB")
    write_results(
        "extract", "Extraction against the plain way", rows, packages=["torch", "av", "pytorchvideo"], notes=notes
    )


if __name__ == "__main__":
    main()
