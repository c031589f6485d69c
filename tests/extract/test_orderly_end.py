"""The end of a run in the middle of a network: no thread is left in torch, no claim is left in the store."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from extract.device.orderly_end import ThreadGroup, finish
from pipeline import FeatureStore
from pipeline.settings import Settings
from tests.support.extraction import catalogue, make_videos, tiny_recipe

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, os, signal, sys, threading, time
from pathlib import Path
import torch
from extract import plan_extract, run_extract
from extract.backbones.interface import Backbone, BackboneInfo
from pipeline import FeatureStore
from pipeline.recipe import parse_recipe
from pipeline.settings import Settings

recipe = parse_recipe(json.loads(Path(sys.argv[1]).read_text()))
how = sys.argv[4]
begun = threading.Event()

class SlowNetwork(torch.nn.Module):
    def forward(self, clips):
        until = time.monotonic() + 1.5
        if how == "interrupts" and not begun.is_set():
            threading.Timer(0.0, os.kill, (os.getpid(), signal.SIGINT)).start()
            threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT)).start()  # while the first one is dealt with
        begun.set()
        pixels, weights = torch.randn(2, 3, 8, 64, 64), torch.randn(16, 3, 3, 3, 3)
        while time.monotonic() < until:
            torch.nn.functional.conv3d(pixels, weights)
        return clips.mean(dim=(2, 3, 4)).repeat(1, 4)

INFO = BackboneInfo("slow", "test", "slow", "mean", (0.5,) * 3, (0.2,) * 3)
BACKBONE = Backbone(INFO, SlowNetwork(), dim=12, device=torch.device("cpu"))

def run():
    settings = Settings(data=Path(sys.argv[3]))
    store = FeatureStore.open(sys.argv[2], mode="a")
    run_extract(plan_extract(recipe, store, settings), store, settings, backbones={"tiny": BACKBONE})

if __name__ == "__main__":
    if how == "interrupts":
        try:
            run()
        except KeyboardInterrupt:
            print("interrupted", threading.active_count(), flush=True)
            raise SystemExit(130)
    threading.Thread(target=run, daemon=True).start()
    begun.wait()
"""


@pytest.mark.parametrize(
    ("how", "code"), [("interrupts", 130), pytest.param("the program ends", 0, marks=pytest.mark.slow)]
)
def test_no_thread_is_in_torch_when_the_interpreter_ends(tmp_path, program, how, code):
    """`terminate called without an active exception`, and an abort, was what came of it."""
    videos = make_videos(tmp_path / "videos", [18, 19, 20, 21, 22, 23])
    recipe = tiny_recipe(program, shard_rows=2)
    store = FeatureStore.create(str(tmp_path / "store"))
    catalogue(recipe, store, Settings(data=videos))
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json(by_alias=True))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "recipe.json"), store.url, str(videos), how],
        capture_output=True, text=True, timeout=90, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert "terminate" not in done.stderr
    assert done.returncode == code, done.stderr
    assert not [p for p in Path(store.url).rglob("_claims/*") if p.is_file()]
    if how == "interrupts":
        assert done.stdout.split() == ["interrupted", "1"]  # the main thread alone


def test_interrupts_do_not_keep_work_from_being_finished():
    steps: list[int] = []

    def work() -> None:
        while len(steps) < 5:
            steps.append(len(steps))
            if len(steps) in (2, 4):
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        finish(work)
    assert steps == [0, 1, 2, 3, 4]
    finish(work)


def test_a_group_of_threads_ends_though_its_channel_is_full_and_one_of_them_is_dead():
    channel: queue.Queue[int | None] = queue.Queue(maxsize=1)
    first_took, go_on = threading.Event(), threading.Event()

    def loop() -> None:
        while (item := channel.get()) is not None:
            if item == 1:
                return
            first_took.set()
            go_on.wait(10)

    group = ThreadGroup(loop, channel, "test", 2)
    group.end()  # not started: nothing to wait for
    group.start()
    channel.put(1)
    while not any(ended.is_set() for ended in group.ended):
        threading.Event().wait(0.01)
    channel.put(2)
    assert first_took.wait(10)
    channel.put(3)
    threading.Timer(0.1, go_on.set).start()
    group.end()
    assert all(ended.is_set() for ended in group.ended)
    group.end()
