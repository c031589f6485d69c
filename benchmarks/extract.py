"""Extraction against the plain way, against the bare network, and its memory from 20 to 200 videos.

    python -m benchmarks.extract --data ../shared/data [--videos 48] [--memory] [--device cuda]

All figures come from one run of this program: the plain way opens and decodes
a video for every crop and runs the eager float32 network on one video at a
time; the bare network sees batches that lie ready in memory, in as many
single-threaded streams as extraction uses. On a CPU the tuned network runs,
and beside it OpenVINO where that is installed. Rates by the processor's clock
(of all processes of a run) hold on a machine that others use, too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks._plain_ways import plain_job
from benchmarks._plain_ways import rates as plain_ways
from benchmarks._rates import Rate, Stopwatch, median_of, ratio_of
from benchmarks._table import write_results
from extract.backbones import openvino_network
from extract.backbones.interface import COMPILED, OPENVINO, PLAIN

NUM_CROPS = 16
DECODED_BYTES = 4 << 30
"""Of frames that are decoded beforehand, at most."""
CROPS = {
    "x3d_xs": {"num_frames": 4, "stride": 12, "size_px": 160, "short_side_px": [182, 228]},
    "slow_r50": {"num_frames": 16, "stride": 4, "size_px": 224, "short_side_px": [256, 320]},
}


def recipe(videos: list[str], model: str = "x3d_xs", num_crops: int = NUM_CROPS, precision: str = "float16"):
    from pipeline.recipe import parse_recipe

    return parse_recipe(
        {
            "name": "bench",
            "dataset": {"name": "bench", "videos": videos, "shard_rows": 32},
            "crops": {"train16": {"policy": "random", "num_crops": num_crops, **CROPS[model]}},
            "backbones": {
                model: {
                    "kind": "pytorchvideo", "model": model, "weights": {"random": 0}, "dtype": "float32",
                    "precision": precision,
                }
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


def said_of(source: Path) -> str:
    """Say of which clips `link_videos` takes."""
    long, short = (len(list(source.glob(pattern))) for pattern in ("ucf101_2class/**/*.avi", "jhmdb12/**/*.avi"))
    return f"of {long} of UCF101 and {short} of J-HMDB, in this order and again"


def run_pipeline(
    folder: Path, store_path: Path, spec=None, device: str = "cpu", *, warm: bool = True, way=None, kept=None
):
    """Extract once with the network made ready beforehand; return the rate, the report and the store."""
    from extract import plan_catalog, plan_extract, run_catalog, run_extract
    from extract.backbones import load_backbone, optimise
    from pipeline import FeatureStore
    from pipeline.settings import Settings

    settings = Settings(data=folder, device=device)
    spec = spec or recipe(["*.avi"])
    store = FeatureStore.create(str(store_path))
    run_catalog(plan_catalog(spec, store, settings), store, settings)
    kept = {} if kept is None else kept
    notes = []
    if warm and not kept:
        import torch

        threads = torch.get_num_threads()
        if device == "cpu":
            torch.set_num_threads(1)  # extraction runs single-threaded streams
        ((name, backbone_spec),) = spec.backbones.items()
        kept[name] = load_backbone(backbone_spec, settings, device, as_before=way)
        batch, shape = batch_of(spec, device)

        def say(event):
            notes.append(event.text)

        optimise(kept[name], (batch, *shape), 1 if way == PLAIN else 1_000_000, say, num_streams=threads)
        kept[name](torch.rand(batch, *shape, device=device))
        torch.set_num_threads(threads)
    plan = plan_extract(spec, store, settings)
    watch = Stopwatch()
    report = run_extract(plan, store, settings, backbones=kept or None)
    return watch.rate(report.did["crops"]), report, store, kept, notes


def run_decoded(folder: Path, store, spec, device: str, kept):
    """Extract the same videos into a store of their own, with frames that lie decoded in memory."""
    from benchmarks._decoded_source import DecodedSource
    from extract import plan_catalog, plan_extract, run_catalog, run_extract
    from pipeline import FeatureStore
    from pipeline.settings import Settings

    settings = Settings(data=folder, device=device)
    paths, num_bytes = [], 0
    for video in store.dataset("bench").videos.to_pylist():
        num_bytes += video["num_frames"] * video["width"] * video["height"] * 3
        if paths and num_bytes > DECODED_BYTES:
            break
        paths.append(folder / video["video_id"])
    few = spec.model_copy(update={"dataset": spec.dataset.model_copy(update={"videos": [path.name for path in paths]})})
    other = FeatureStore.create(store.url + "-decoded")
    run_catalog(plan_catalog(few, other, settings), other, settings)
    plan = plan_extract(few, other, settings)
    source = DecodedSource(paths, num_workers=1 if device == "cpu" else 8)
    watch = Stopwatch()
    report = run_extract(plan, other, settings, backbones=kept, source=source)
    return watch.rate(report.did["crops"]), len(paths)


def batch_of(spec, device: str) -> tuple[int, tuple[int, ...]]:
    """Crops a batch that extraction would take, and the shape of a crop."""
    from extract.device.encode import batch_crops

    policy = spec.crops["train16"]
    batch = batch_crops(policy.num_frames, policy.size_px, device.split(":")[0])
    return batch, (3, policy.num_frames, policy.size_px, policy.size_px)


def run_plain(folder: Path, store, num_videos: int, spec, device: str = "cpu"):
    """Open and decode per crop, eager float32 as the zoo builds it, one video at a time."""
    import torch

    from extract.decoding.frame_picking import pick_frames
    from extract.decoding.opening import open_reader
    from extract.pixels.preprocess import cut_crop

    crops, network = plain_job(folder, store, num_videos, spec, device)
    features = []
    watch = Stopwatch()
    with torch.inference_mode():
        for number, video in enumerate(crops.videos):
            clips = []
            for geometry in crops.geometry(number):
                with open_reader(folder / video["video_id"]) as reader:
                    picks = pick_frames(geometry[None], crops.policy, reader.frame_times_s, video["duration_s"])[0]
                    wanted = np.unique(picks)
                    frames = torch.from_numpy(np.array(reader.read(wanted).frames))
                clips.append(cut_crop(frames, np.searchsorted(wanted, picks), geometry, crops.size_px))
            features.append(network(crops.batch(clips)).numpy())
    features = np.stack(features)
    return watch.rate(features.shape[0] * features.shape[1]), features


def bare_rate(backbone, batch: int, shape: tuple[int, ...], seconds: float = 15.0) -> Rate:
    """Rate of the same network on batches that lie ready on its device, in as many streams as are used."""
    import torch

    from pipeline.compute.memory import keep_freed_memory

    counts: list[int] = []
    on_cpu = backbone.device.type == "cpu"

    if on_cpu:
        keep_freed_memory()

    def work() -> None:
        if on_cpu:
            torch.set_num_threads(1)
        frames, height, width = shape[1:]
        clips = torch.rand(batch, frames, height, width, 3, device=backbone.device).permute(0, 4, 1, 2, 3)
        done, started = 0, time.perf_counter()
        while time.perf_counter() < started + seconds:
            for _ in range(1 if on_cpu else 8):  # the device gets work ahead
                features = backbone(clips)
                done += len(clips)
            features.cpu()
        counts.append(done)

    threads = [threading.Thread(target=work) for _ in range(torch.get_num_threads() if on_cpu else 1)]
    watch = Stopwatch()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return watch.rate(sum(counts))


def peak_memory(source: Path, num_videos: int) -> dict[str, float]:
    """Run extraction of so many videos in a process of its own; return its peak resident memory."""
    code = (
        "import sys,json,resource;from pathlib import Path;from benchmarks.extract import run_pipeline;"
        "f,s=sys.argv[1:];run_pipeline(Path(f),Path(s),warm=False);"
        "print(json.dumps({'mib':resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024}))"
    )
    with tempfile.TemporaryDirectory() as scratch:
        link_videos(source, Path(scratch) / "videos", num_videos)
        done = subprocess.run(
            [sys.executable, "-c", code, f"{scratch}/videos", f"{scratch}/store"],
            capture_output=True, text=True, check=True, env=os.environ | {"TORCHDYNAMO_DISABLE": "1"},
        )  # fmt: skip
    return json.loads(done.stdout.strip().splitlines()[-1])


def rows_of(form: str, found: dict[str, list[Rate]], before: dict[str, list[Rate]], row) -> list[dict[str, object]]:
    """Return the same rows with a faster form: against its own bare network, and against those without."""
    names = {
        "extraction": f"extraction, {form}",
        "decoded": f"extraction, {form}, frames already decoded",
        "bare": f"bare network, {form}",
    }
    rows = []
    for key, rates in found.items():
        rows.append(row(names[key], rates, found["bare"]))
        ratio = ratio_of(rates, before[key])
        rows[-1]["ratio"] += f"; {ratio.by_clock:.2f} x without, {ratio.by_processor:.2f} x by the processor's clock"
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of real videos")
    parser.add_argument("--videos", type=int, default=96)
    parser.add_argument("--crops", type=int, default=NUM_CROPS, help="a video")
    parser.add_argument("--plain-videos", type=int, default=12, help="0: leave the plain way out")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--model", choices=sorted(CROPS), help="x3d_xs on a CPU, slow_r50 (16 x 224 px) on a GPU")
    parser.add_argument("--precision", choices=("float16", "bfloat16", "float32"), default="float16", help="on a GPU")
    parser.add_argument("--seconds", type=float, default=15.0, help="for the bare network")
    parser.add_argument("--rounds", type=int, default=3, help="of extraction and the bare network, in turns")
    parser.add_argument("--as-it-is", action="store_true", help="the network alone, without its faster forms")
    parser.add_argument("--memory", action="store_true", help="also compare peak memory of 20 and 200 videos")
    parser.add_argument("--no-page", action="store_true", help="print only")
    options = parser.parse_args()
    source = options.data.resolve()
    model = options.model or ("x3d_xs" if options.device == "cpu" else "slow_r50")
    spec = recipe(["*.avi"], model, options.crops, options.precision)
    batch, shape = batch_of(spec, options.device)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "videos"
        link_videos(source, folder, options.videos)
        before = resource.getrusage(resource.RUSAGE_SELF)
        on_cpu = options.device == "cpu"
        ways = [PLAIN]
        if not options.as_it_is and (not on_cpu or openvino_network.is_installed()):
            ways.append(OPENVINO if on_cpu else COMPILED)
        form = {OPENVINO: "OpenVINO", COMPILED: "compiled"}[ways[-1]] if ways[1:] else ""
        networks, reports, notes = {way: {} for way in ways}, {}, []
        rounds: dict[str, dict[str, list[Rate]]] = {way: {} for way in ways}
        for number in range(options.rounds):  # in turns: other processes come and go
            for way in ways:
                where, kept = Path(scratch) / f"{way}-{number}", networks[way]
                rate, report, other, kept, said = run_pipeline(folder, where, spec, options.device, way=way, kept=kept)
                if (number, way) == (0, ways[0]):
                    store, after = other, resource.getrusage(resource.RUSAGE_SELF)
                decoded, num_decoded = run_decoded(folder, other, spec, options.device, kept)
                bare = bare_rate(kept[model], batch, shape, options.seconds / options.rounds)
                for key, one in {"extraction": rate, "decoded": decoded, "bare": bare}.items():
                    rounds[way].setdefault(key, []).append(one)
                notes += said
                reports.setdefault(way, report)
        report, plainly = reports[ways[0]], rounds[ways[0]]
        if form:
            notes.append(f"{form} busy: {reports[ways[-1]].details['rates']['busy_seconds']} s")
        plain_rate, by_hand = None, {}
        if options.plain_videos:
            plain_rate, plain = run_plain(folder, store, options.plain_videos, spec, options.device)
            by_hand = plain_ways(folder, store, options.plain_videos, spec, options.device)
            stored = store.dataset("bench").select(rows=np.arange(len(plain))).features("train16", model)
            difference = float(np.abs(np.asarray(stored.values, np.float32) - plain).max() / np.abs(plain).max())
            notes.append(f"features equal to {difference:.1e} of the largest value")

    def row(what: str, rates: list[Rate] | Rate | float, of: list[Rate] = plainly["bare"]) -> dict[str, object]:
        """Return a line: rates of all rounds, or of one run of those that have no rounds."""
        by_processor = ""
        if isinstance(rates, list):
            rate, to_bare = median_of(rates), ratio_of(rates, of)
            by_processor = f"{rate.by_processor:.1f}"
            ratio = [f"{to_bare.by_clock:.2f} of bare ({to_bare.by_processor:.2f} by the processor's clock)"]
        else:
            rate = rates if isinstance(rates, Rate) else Rate(rates, 0.0)
            by_processor = f"{rate.by_processor:.1f}" if rate.by_processor else ""
            ratio = [f"{rate.by_clock / median_of(of).by_clock:.2f} of bare"]
        if plain_rate is not None:
            ratio.insert(0, f"{rate.by_clock / plain_rate.by_clock:.2f} x plain")
        return {
            "what": what,
            "a second": f"{rate.by_clock:.1f} crops",
            "a processor second": by_processor,
            "ratio": "; ".join(ratio),
        }

    def busy_row(part: str, unit: str) -> dict[str, object]:
        rate = f"{busy[part]:.1f} {unit}"
        return {"what": f"{part}, alone, of a busy second", "a second": rate, "a processor second": "", "ratio": ""}

    units = {"decode": "frames", "preprocess": "crops", "forward": "crops", "write": "rows"}
    busy = report.details["rates"]["per_busy_second"]
    rows = [] if plain_rate is None else [row("plain way", plain_rate)]
    rows += [row(f"by hand: {way}, eager, one video at a time", rate) for way, rate in by_hand.items()]
    rows += [
        row("extraction, decoding and writing included", plainly["extraction"]),
        row(f"extraction, frames already decoded ({num_decoded} videos)", plainly["decoded"]),
        row("bare network, batches in memory", plainly["bare"]),
        *(rows_of(form, rounds[ways[-1]], plainly, row) if form else ()),
        *(busy_row(part, unit) for part, unit in units.items()),
    ]
    frames, size_px = shape[1], shape[2]
    precision = "float32" if options.device == "cpu" else options.precision
    notes = [
        f"{options.videos} clips ({said_of(source)}), {options.crops} crops each, {model} {frames} x "
        f"{size_px} px, random weights, {options.device}, {precision}, batches of {batch}; plain way on the first "
        f"{options.plain_videos} (the long ones); median of {options.rounds} rounds in turns",
        f"busy: {report.details['rates']['busy_seconds']} s, summed over threads; on a GPU by its own clock",
        *notes,
    ]
    in_kernel, in_all = after.ru_stime - before.ru_stime, after.ru_utime - before.ru_utime
    in_all += in_kernel
    notes.append(
        f"memory from the system: {after.ru_minflt - before.ru_minflt:,} page faults, {in_kernel:.1f} of {in_all:.1f} "
        f"processor seconds in the kernel ({in_kernel / in_all:.0%}), loading the network included"
    )
    if not on_cpu:
        import torch

        notes.append(
            f"{torch.cuda.get_device_name(options.device)}; decoding by {len(os.sched_getaffinity(0)) - 1} processes"
        )
    if options.memory:
        few, many = (peak_memory(source, n) for n in (20, 200))
        notes.append(f"peak memory: 20 videos {few['mib']:.0f} MiB, 200 videos {many['mib']:.0f} MiB")
    if options.no_page:
        print("\n".join([*map(str, rows), *notes]))
        return
    page = "extract" if (options.device, model) == ("cpu", "x3d_xs") else f"extract_{options.device[:4]}_{model}"
    write_results(
        page,
        "Extraction against the plain way",
        rows,
        packages=["torch", "av", "pytorchvideo", "openvino"],
        notes=notes,
    )


if __name__ == "__main__":
    main()
