"""Killed, interrupted, overlapping, spread over workers: the finished store is always the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from extract import plan_extract, run_extract
from extract.decoding.decode_pool import DecodePool
from pipeline import FeatureStore
from pipeline.events import ShardFinished
from pipeline.settings import Settings
from tests.support.extraction import (
    assert_same_features,
    catalogue,
    extract_all,
    make_videos,
    read_everything,
    tiny_recipe,
)

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys, json, time
sys.path.insert(0, {root!r})
from pathlib import Path
from pipeline import FeatureStore
from pipeline.recipe import parse_recipe
from pipeline.settings import Settings
from pipeline.events import Progress, ShardFinished
from extract import plan_extract, run_extract

def listen(event):
    if isinstance(event, ShardFinished):
        print("shard", event.shard, flush=True)
    if isinstance(event, Progress):
        print("video", event.done, flush=True)
        time.sleep(float(sys.argv[5]))  # holds new videos back: the test finds the run in the middle

if __name__ == "__main__":
    recipe = parse_recipe(json.loads(Path(sys.argv[1]).read_text()))
    store = FeatureStore.open(sys.argv[2], mode="a")
    settings = Settings(data=Path(sys.argv[3]), dask=sys.argv[4] or None)
    try:
        report = run_extract(plan_extract(recipe, store, settings), store, settings, listen)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise SystemExit(130)
    print("did", json.dumps(report.did), flush=True)
"""


def start(
    tmp_path: Path, recipe, store: FeatureStore, videos: Path, dask: str = "", hold_s: float = 0
) -> subprocess.Popen[str]:
    script, recipe_file = tmp_path / "run.py", tmp_path / "recipe.json"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    recipe_file.write_text(recipe.model_dump_json(by_alias=True))
    return subprocess.Popen(
        [sys.executable, str(script), str(recipe_file), store.url, str(videos), dask, str(hold_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return make_videos(tmp_path / "many", [18 + k % 5 for k in range(24)])


def prepared(tmp_path: Path, recipe, videos: Path) -> FeatureStore:
    store = FeatureStore.create(str(tmp_path / "store"))
    catalogue(recipe, store, Settings(data=videos))
    return store


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again_equals_an_uninterrupted_run(tmp_path, many, program):
    recipe = tiny_recipe(program, shard_rows=2)
    store = prepared(tmp_path, recipe, many)
    process = start(tmp_path, recipe, store, many, hold_s=0.6)
    assert process.stdout is not None
    for line in process.stdout:  # after the first commit, with others in flight
        if line.startswith("shard"):
            process.kill()
            break
    process.wait()
    left = plan_extract(recipe, FeatureStore.open(store.url), Settings(data=many))
    assert 0 < len(left.shards) < 12
    _, report = extract_all(recipe, store.url, Settings(data=many))
    assert report.did["shards_skipped"] == left.num_shards_done
    clean, _ = extract_all(recipe, tmp_path / "clean", Settings(data=many))
    assert_same_features(read_everything(FeatureStore.open(store.url), recipe), read_everything(clean, recipe))


def test_an_interrupt_stops_in_order_and_leaves_no_claims_or_processes(tmp_path, many, program):
    recipe = tiny_recipe(program, shard_rows=2)
    store = prepared(tmp_path, recipe, many)
    process = start(tmp_path, recipe, store, many, hold_s=0.6)
    assert process.stdout is not None
    children = []
    for line in process.stdout:
        if line.startswith("video"):
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in out
    assert not [p for p in Path(store.url).rglob("_claims/*") if p.is_file()]
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert plan_extract(recipe, FeatureStore.open(store.url), Settings(data=many)).shards


def test_videos_whose_decoders_were_killed_are_tried_again_unasked(tmp_path, program):
    """As when memory runs out for a while: no file is to blame, and the next run must not need to be told."""
    videos = make_videos(tmp_path / "videos", [18, 19, 20, 21, 22, 23])
    recipe, settings = tiny_recipe(program), Settings(data=videos, workers=2)
    (videos / "v001.mp4").rename(videos / "kill1.mp4")
    (videos / "v004.mp4").rename(videos / "kill4.mp4")
    store = prepared(tmp_path, recipe, videos)
    with DecodePool(2, opener="tests.support.bad_decoders:open_bad_reader") as pool:
        report = run_extract(plan_extract(recipe, store, settings), store, settings, source=pool)
    assert report.did["videos_interrupted"] == report.did["videos_failed"] == 2
    assert report.is_partial
    found = read_everything(store, recipe)["grid/tiny"]
    assert sorted(found["status"].tolist()) == ["interrupted"] * 2 + ["ok"] * 4
    assert all("was killed" in error for error in found["error"] if error)
    info = store.dataset("set").refresh().feature_info("grid", "tiny")
    assert (info.num_shards_done, info.num_shards) == (1, 2)
    plan = plan_extract(recipe, FeatureStore.open(store.url), settings)
    assert {t.reason for s in plan.shards for t in s.targets} == {
        "2 videos without a result, 2 of them because their decoding was killed"
    }
    again = run_extract(plan, store, settings)
    assert (again.did["videos_ok"], again.did["videos_failed"], again.is_partial) == (2, 0, False)
    undisturbed, _ = extract_all(recipe, tmp_path / "other", settings)
    assert_same_features(read_everything(FeatureStore.open(store.url), recipe), read_everything(undisturbed, recipe))


@pytest.mark.slow
def test_a_night_in_which_decoders_are_killed_all_the_time_is_made_good_by_the_next(tmp_path, program):
    videos = make_videos(tmp_path / "videos", [30] * 24)
    recipe = tiny_recipe(program)
    store = prepared(tmp_path, recipe, videos)
    settings, stop = Settings(data=videos, workers=2), threading.Event()

    def kill() -> None:
        while not stop.wait(0.2):
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # it may have just died of itself
                    if "extract.decoding.decode_worker" in child.cmdline():
                        child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        report = run_extract(plan_extract(recipe, store, settings), store, settings)
    finally:
        stop.set()
        killer.join()
    assert report.details["statuses"].get("unreadable", 0) == 0
    run_extract(plan_extract(recipe, store, settings), store, settings)
    found = read_everything(FeatureStore.open(store.url), recipe)
    assert {status for target in found.values() for status in target["status"]} == {"ok"}


def test_a_run_that_waits_for_another_finishes_what_it_holds(tmp_path, program):
    """Two runs that each kept a batch half full, and its claim, until the other was done would wait for ever."""
    videos = make_videos(tmp_path / "two", [18, 19])  # 7 crops each: far from a full batch
    recipe = tiny_recipe(program, shard_rows=1)
    store = prepared(tmp_path, recipe, videos)
    settings = Settings(data=videos)
    plan = plan_extract(recipe, store, settings)
    target = plan.targets[0]
    dataset = store.dataset("set")
    dataset.define_crop_set(target.crops, target.policy)
    writer = dataset.writer(
        target.crops, target.feature_set, fingerprint=dict(target.fingerprint), dim=12, dtype=target.spec.dtype
    )
    other = writer.claim(writer.todo(shards=[1])[0], ttl_s=300)
    assert other is not None
    finished = []

    def listen(event):
        if isinstance(event, ShardFinished):
            finished.append(event.shard)
            if 0 in finished:
                other.release()

    report = run_extract(plan, store, settings, listen)
    assert finished[0] == 0
    assert report.did["shards_done"] == 4


def is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:  # it has just died: of this test, or of old age
        return False


@pytest.mark.slow
def test_two_overlapping_runs_share_the_work(tmp_path, many, program):
    recipe = tiny_recipe(program, shard_rows=2)
    store = prepared(tmp_path, recipe, many)
    runs = [start(tmp_path, recipe, store, many, hold_s=0.05) for _ in range(2)]
    outs = [run.communicate(timeout=300) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outs
    did = [json.loads(out.rpartition("did ")[2]) for out, _ in outs]
    assert sum(d["shards_done"] for d in did) == 24
    assert all(d["shards_done"] + d["shards_skipped"] == 24 for d in did)
    clean, _ = extract_all(recipe, tmp_path / "clean", Settings(data=many))
    assert_same_features(read_everything(FeatureStore.open(store.url), recipe), read_everything(clean, recipe))


@pytest.mark.slow
def test_overlapping_runs_that_are_killed_at_random_end_with_the_same_store(tmp_path, many, program):
    recipe = tiny_recipe(program, shard_rows=2)
    store = prepared(tmp_path, recipe, many)
    rng = random.Random(0)
    runs = [start(tmp_path, recipe, store, many, hold_s=0.4) for _ in range(3)]
    killed = 0
    while killed < 5:
        k = rng.randrange(len(runs))
        lines = [runs[k].stdout.readline() for _ in range(rng.randint(1, 4))]
        if not lines[-1]:
            break  # it came to its end
        runs[k].kill()
        runs[k].communicate()
        killed += 1
        runs[k] = start(tmp_path, recipe, store, many, hold_s=0.4)
    outs = [run.communicate(timeout=200) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], outs
    assert killed >= 2
    reopened = FeatureStore.open(store.url)
    assert plan_extract(recipe, reopened, Settings(data=many)).is_empty
    clean, _ = extract_all(recipe, tmp_path / "clean", Settings(data=many))
    assert_same_features(read_everything(reopened, recipe), read_everything(clean, recipe))


@pytest.mark.slow
def test_dask_loses_nothing_when_workers_are_killed_every_few_seconds(tmp_path, program):
    videos = make_videos(tmp_path / "many", [18 + k % 5 for k in range(60)])
    recipe = tiny_recipe(program, shard_rows=2)
    store = prepared(tmp_path, recipe, videos)
    process = start(tmp_path, recipe, store, videos, dask="2")
    killed = 0
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(5)
        if killed == 4 or not list(Path(store.url).glob("set/crops/*/ledger/tiny/*.parquet")):
            continue  # the cluster is still starting; or enough: let it finish
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        workers = [p for p in children if is_worker(p)]
        if workers:
            workers[killed % len(workers)].kill()
            killed += 1
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err[-3000:]
    assert "did" in out
    assert killed >= 1
    clean, _ = extract_all(recipe, tmp_path / "clean", Settings(data=videos))
    assert plan_extract(recipe, FeatureStore.open(store.url), Settings(data=videos)).is_empty
    assert_same_features(read_everything(FeatureStore.open(store.url), recipe), read_everything(clean, recipe))


@pytest.mark.slow
def test_dask_gives_what_one_process_gives(tmp_path, videos, program):
    recipe = tiny_recipe(program)
    store = prepared(tmp_path, recipe, videos)
    report = run_extract(
        plan_extract(recipe, store, Settings(data=videos, dask="2")), store, Settings(data=videos, dask="2")
    )
    assert report.did["shards_done"] == 6
    assert report.did["crops"] == 70
    clean, _ = extract_all(recipe, tmp_path / "clean", Settings(data=videos))
    assert_same_features(read_everything(FeatureStore.open(store.url), recipe), read_everything(clean, recipe))
