"""`scale serve` in a browser: every view, the map by keyboard and mouse, filtering and scrolling."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline import FeatureStore
from tests.flows.serve_world import VIEWS, chosen_rows, listening
from tests.support.browser import Browser
from tests.support.page_checks import contrast, structure_problems, too_wide

pytestmark = pytest.mark.service


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_every_view_in_a_browser(served, browser: Browser, width, dark):
    with listening(served.app()) as url:
        for view in VIEWS:
            with browser.page(width=width, height=900, dark=dark) as page:
                page.open(f"{url}/s/set{view}")
                if view == "/video/1":
                    page.evaluate("document.querySelector('[data-crop]').dispatchEvent(new Event('mouseenter'))")
                    assert page.evaluate("!document.querySelector('[data-box-view]').hidden")
                assert page.problems() == [], view
                assert contrast(page)["bad"] == [], view
                assert structure_problems(page) == [], view
                assert too_wide(page) == [], view
                assert all(address.startswith((url, "blob:")) for address in page.requests())


def test_a_map_is_chosen_from_by_keyboard_and_by_mouse(served, browser: Browser):
    with listening(served.app()) as url, browser.page(width=1280, height=900) as page:
        page.open(f"{url}/s/set/map")
        page.evaluate("document.querySelector('[data-canvas]').focus()")
        told = "document.querySelector('[data-chosen]').textContent"

        def press(*keys: str) -> str:
            for key in keys:
                page.press(key)
            return page.evaluate(told)

        assert "2 set" in press(" ", "ArrowLeft", " ", "Enter")
        assert press("Escape") == "Nothing chosen."
        press(*["ArrowLeft"] * 22, *["ArrowUp"] * 22, " ")  # around everything, corner by corner
        press(*["ArrowRight"] * 43, " ", *["ArrowDown"] * 43, " ", *["ArrowLeft"] * 43, " ")
        assert press("Enter").startswith("12 videos chosen")
        rows = page.evaluate("document.querySelector('[data-chosen] a').href")
        assert sorted(rows.partition("?rows=")[2].split(",")) == sorted(map(str, chosen_rows(served)))
        box = page.evaluate(
            "(() => { const b = document.querySelector('[data-canvas]').getBoundingClientRect();"
            " return [b.left + 2, b.top + 2, b.right - 2, b.bottom - 2]; })()"
        )
        left, top, right, bottom = box
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top + 5)]
        for kind, (x, y) in zip(["mousePressed", *["mouseMoved"] * 3, "mouseReleased"], corners, strict=True):
            page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
        assert page.evaluate(told).startswith("12 videos chosen")
        assert page.evaluate("location.pathname").endswith("/map")
        assert page.problems() == []


def test_filtering_and_scrolling_in_a_browser(served, browser: Browser, tmp_path):
    store = FeatureStore.create(str(tmp_path / "many"))
    store.create_dataset("set").append_videos(
        pa.table({"video_id": [f"{i:04d}.mp4" for i in range(150)], "label": ["even", "odd"] * 75})
    )
    many = served.over(tmp_path / "many")
    with listening(many.app()) as url, browser.page(width=1280, height=900) as page:
        page.open(f"{url}/s/set/videos")
        tiles = "document.querySelectorAll('.tile:not(.more)').length"
        scroll = (
            "new Promise(done => {const t = setInterval(() => {window.scrollTo(0, document.body.scrollHeight);"
            f"if ({tiles} === 150) {{clearInterval(t); done({tiles})}}}}, 50);"
            f"setTimeout(() => done({tiles}), 20000)}})"
        )
        assert page.evaluate(scroll) == 150
        chosen = page.evaluate(
            "new Promise(done => {"
            "document.body.addEventListener('htmx:pushedIntoHistory', () => done(location.search));"
            "const s = document.querySelector('select[name=label]'); s.value = 'odd';"
            "s.dispatchEvent(new Event('change', {bubbles: true})); setTimeout(() => done('nothing came'), 20000)})"
        )
        assert "label=odd" in chosen
        assert "75 videos" in page.evaluate("document.getElementById('results').innerText")
