"""The whole demo, as `make demo` runs it, and its report in a browser."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.browser import Browser

SCALE = Path(sys.executable).parent / "scale"

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(900)]


def test_the_demo_runs_is_honest_and_its_report_opens(tmp_path: Path, browser: Browser) -> None:
    command = [str(SCALE), "demo", "--folder", str(tmp_path / "demo")]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "untrained" in first.stdout
    assert "Traceback" not in first.stdout + first.stderr
    second = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    said = json.loads(second.stdout.strip().splitlines()[-1])
    assert said["did"]["extract"]["shards_done"] == said["did"]["train"]["models_trained"] == 0
    with browser.page() as page:
        page.open(Path(said["report"]))
        assert page.problems() == []
        images = page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0)")
        assert images
        assert all(images)
        assert page.evaluate("[...document.querySelectorAll('table')].every(t => t.querySelector('th[scope]'))")
        assert "untrained" in page.evaluate("document.body.innerText")
