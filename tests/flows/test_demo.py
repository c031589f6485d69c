"""The whole demo, as `make demo` runs it: its table, what it says to look at, and its report in a browser."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.browser import Browser

SCALE = Path(sys.executable).parent / "scale"

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(900)]


def test_the_demo_shows_what_scale_adds_and_its_report_opens(tmp_path: Path, browser: Browser) -> None:
    command = [str(SCALE), "demo", "--folder", str(tmp_path / "a demo")]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Traceback" not in first.stdout + first.stderr
    second = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    said = json.loads(second.stdout.strip().splitlines()[-1])
    assert said["did"]["extract"]["shards_done"] == said["did"]["train"]["models_trained"] == 0
    knn = {p["readout"]: p for p in said["probes"] if p["probe"] == "knn" and p["centring"] == "train"}
    assert knn["cls"]["top1"] >= knn["mean"]["top1"] + 0.25
    assert knn["cls"]["interval"][0] > max(knn[other]["interval"][1] for other in ("mean", "moments"))
    look, search, serve = (line.strip() for line in first.stdout.splitlines()[-3:])
    assert look == said["report"]
    assert serve.startswith("scale serve ")
    found = subprocess.run([SCALE, *shlex.split(search)[1:], "--json"], capture_output=True, text=True, check=True)
    hits = json.loads(found.stdout.strip().splitlines()[-1])["hits"]
    assert hits[0]["uri"].endswith(Path(shlex.split(search)[4]).name)  # itself, seen as it was stored
    with browser.page() as page:
        page.open(Path(said["report"]))
        assert page.problems() == []
        images = page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0)")
        assert images
        assert all(images)
        assert page.evaluate("[...document.querySelectorAll('table')].every(t => t.querySelector('th[scope]'))")
