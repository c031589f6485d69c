"""A browser's walk through every view of a store: first paint, filters, problems; pictures to look at.

    python -m benchmarks.serve_walk STORE [--data VIDEOS] [--shots FOLDER]

Every view is opened on a desktop and on a phone, light and dark. Counted are console errors, texts below WCAG AA,
names that a screen reader would miss, and what sticks out of the page. Chromium and the server share the machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._table import write_results
from benchmarks.serve import wait_for_server
from pipeline import FeatureStore
from tests.support.browser import Browser, Page, running_browser
from tests.support.page_checks import contrast, structure_problems, too_wide
from tests.support.services import free_port

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
PAINT = (
    "new Promise(d => {const f = () => {const p = performance.getEntriesByName('first-contentful-paint')[0];"
    "p ? d(p.startTime) : setTimeout(f, 20)}; f()})"
)
FILTER = """new Promise(done => {
  const box = document.querySelector('input[name=where]'), began = performance.now();
  document.body.addEventListener('htmx:afterSettle', () => done(performance.now() - began), {once: true});
  box.value = CONDITION;
  box.form.dispatchEvent(new Event('submit', {bubbles: true, cancelable: true}));
  setTimeout(() => done(-1), 20000)})"""
CONDITIONS = ("duration_s > 1.01", "label LIKE 'c%' OR label = 'run'", "splits['1'] = 'train' AND duration_s < 3")


def views_of(store: FeatureStore) -> list[str]:
    """Return the addresses of every kind of view of the first dataset."""
    ds = store.dataset(store.datasets()[0])
    video_id = quote(ds.videos["video_id"][min(7, ds.num_videos - 1)].as_py())
    found = ["", "/videos", "/videos?where=duration_s%20%3E%201", "/video/7", "/map", "/search",
             f"/search?video_id={video_id}", "/reports", "/failures"]  # fmt: skip
    return [f"/s/{ds.name}{view}" for view in found] + ["/", "/api"]


def look(page: Page, url: str) -> dict[str, object]:
    """Open a view; return when something was painted and what is wrong with it."""
    page.open(url)
    paint = page.evaluate(PAINT)
    wrong = page.problems() + contrast(page)["bad"] + structure_problems(page) + too_wide(page)
    return {"first paint": float(paint), "wrong": wrong}


def filter_times(page: Page, url: str) -> list[float]:
    """Return the milliseconds from a condition's Enter to the settled grid, for conditions nobody asked before."""
    page.open(url)
    return [float(page.evaluate(FILTER.replace("CONDITION", repr(condition)))) for condition in CONDITIONS]


def walk(
    browser: Browser, base: str, views: list[str], shots: Path | None
) -> tuple[list[dict[str, object]], list[str]]:
    """Return a line a view, and everything that was wrong."""
    rows, wrong = [], []
    for view in views:
        row: dict[str, object] = {"view": view}
        num_wrong = 0
        for size, (width, height) in SIZES.items():
            for scheme in ("light", "dark"):
                with browser.page(width=width, height=height, dark=scheme == "dark") as page:
                    found = look(page, base + view)
                    if scheme == "light":
                        row[f"{size} first paint"] = f"{found['first paint']:.0f} ms"
                    num_wrong += len(found["wrong"])
                    wrong += [f"{view} {size} {scheme}: {text}" for text in found["wrong"]]
                    if shots is not None:
                        name = view.strip("/").replace("/", "_").replace("?", "_")[:40] or "home"
                        page.screenshot(shots / f"{name}-{size}-{scheme}.png")
        rows.append({**row, "wrong": num_wrong})
    return rows, wrong


def main() -> None:
    """Serve, walk, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("--data")
    parser.add_argument("--shots", type=Path)
    parser.add_argument("--name", default="serve_walk", help="of the file in benchmarks/results")
    asked = parser.parse_args()
    if asked.shots is not None:
        asked.shots.mkdir(parents=True, exist_ok=True)
    store, port = FeatureStore.open(asked.store), free_port()
    command = [str(Path(sys.executable).parent / "scale"), "serve", f"s={asked.store}", "--port", str(port)]
    process = subprocess.Popen([*command, *(["--data", asked.data] if asked.data else [])])
    try:
        wait_for_server(port)
        base = f"http://127.0.0.1:{port}"
        with running_browser("chromium") as browser:
            views = views_of(store)
            rows, wrong = walk(browser, base, views, asked.shots)
            with browser.page() as page:
                filters = filter_times(page, f"{base}{views[1]}")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
    ds = store.dataset(store.datasets()[0])
    notes = [f"{ds.num_videos} videos; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
             f"conditions, from Enter to the settled grid: {', '.join(f'{ms:.0f} ms' for ms in filters)}",
             f"wrong: {'; '.join(wrong) or 'nothing'}"]  # fmt: skip
    write_results(asked.name, "Every view of scale serve in Chromium", rows, packages=["fastapi"], notes=notes)


if __name__ == "__main__":
    main()
