"""What a log says while nobody looks: a line a minute, one rate, no stage twice."""

from __future__ import annotations

import queue
import threading

import pytest

from flows.cli.console import EventPrinter
from flows.heartbeat import Heartbeat, Pulse, duration, shown_values, speed, without_stage
from pipeline.events import Progress, StageFinished, StageStarted


def test_a_line_a_minute_with_rate_and_time_left() -> None:
    now = 100.0
    beat = Heartbeat(clock=lambda: now)
    beat.start(StageStarted("extract", 1000, "videos"))
    said = []
    for second in range(200):
        now = 100.0 + second
        said.append(beat.line(Progress("extract", second * 2, 1000, {"videos_per_s": 9.9, "loss": 0.5})))
    lines = [line for line in said if line]
    assert lines[0] == "120 of 1000 videos, 2.0/s, 7 min left, loss 0.5"
    assert len(lines) == 3


def test_the_next_stage_begins_anew() -> None:
    now = 0.0
    beat = Heartbeat(clock=lambda: now)
    now = 90.0
    beat.start(StageStarted("train", 10, "epochs"))
    assert beat.line(Progress("train", 1, 10)) is None
    now = 150.0
    assert beat.line(Progress("train", 1, 10)) == "1 of 10 epochs, 1.0/min, 9 min left"


def test_no_rate_no_promise() -> None:
    now = 0.0
    beat = Heartbeat(clock=lambda: now)
    beat.start(StageStarted("probe", 0, "probes"))
    now = 61.0
    assert beat.line(Progress("probe", 0, 0)) == "0 of 0 probes, 0.0/h"


@pytest.mark.parametrize(
    ("seconds", "text"), [(4, "4 s"), (89, "89 s"), (600, "10 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")]
)
def test_times_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_slow_rates_have_numbers_too() -> None:
    assert [speed(rate) for rate in (12.34, 0.5, 0.001)] == ["12.3/s", "30.0/min", "3.6/h"]


def test_one_rate_and_one_prefix() -> None:
    assert shown_values(Progress("extract", 1, 2, {"videos_per_s": 3.0, "loss": 1.0})) == {"loss": 1.0}
    assert without_stage("extract", "extract: nothing to do") == "nothing to do"


def test_a_stage_that_says_nothing_is_heard_all_the_same() -> None:
    said: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    with Pulse(lambda stage, line: said.put((stage, line)), every_s=0.02) as pulse:
        pulse.start(StageStarted("train", 100, "steps", ""))
        assert said.get(timeout=10) == ("train", "at work for 0 s")
        pulse.progress(Progress("train", 50, 100))
        while not (line := said.get(timeout=10))[1].startswith("50 of 100 steps"):
            assert line[1].startswith("at work")
        pulse.finish()
        pulse.start(StageStarted("embed", 4, "shards", ""))
        while (line := said.get(timeout=10))[0] == "train":
            assert line[1].startswith("50 of 100")
        assert line == ("embed", "at work for 0 s")
        pulse.finish()
    while not said.empty():
        assert said.get()[0] == "embed"
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}


def test_a_log_has_one_line_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with EventPrinter() as printer:
        for stage in ("extract", "train"):
            printer(StageStarted(stage, 500, "units", f"{stage}: 500 units for a, b and c"))
            for done in range(500):
                printer(Progress(stage, done, 500))
            printer(StageFinished(stage, f"{stage}: 500 done", 1.5))
    assert capsys.readouterr().err.splitlines() == ["✓ extract  500 done (1.5 s)", "✓ train    500 done (1.5 s)"]
