"""The report in a real browser: what a reader sees, with eyes, a keyboard, a phone or a screen reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe.pages.report import render_report
from tests.support import page_checks
from tests.support.browser import Browser
from tests.support.probe_reports import CLASSES, frames_of, make_report

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def report_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_report(make_report(), frames_of), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def hostile_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "hostile.html"
    path.write_text(render_report(make_report(hostile=True), frames_of), encoding="utf-8")
    return path


def test_it_loads_without_a_complaint_or_a_request(browser: Browser, report_file: Path) -> None:
    with browser.page() as page:
        page.open(report_file)
        page_checks.open_all_details(page)
        assert page_checks.broken_images(page) == []
        assert page.evaluate("document.images.length") > 20
        assert page_checks.structure_problems(page) == []
        assert page.problems() == []
        assert page.requests() == [report_file.as_uri()]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_can_be_read(browser: Browser, report_file: Path, dark: bool) -> None:
    with browser.page(dark=dark) as page:
        page.open(report_file)
        page_checks.open_all_details(page)
        found = page_checks.contrast(page)
        assert found["checked"] > 500
        assert found["bad"] == []


def test_the_two_schemes_differ_and_the_toggle_overrides_the_system(browser: Browser, report_file: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with browser.page(dark=False) as page:
        page.open(report_file)
        light = page.evaluate(ground)
        page.evaluate("document.querySelector('[data-theme-choice=dark]').click()")
        dark = page.evaluate(ground)
        assert dark != light
        found = page_checks.contrast(page)
        assert found["bad"] == []
        page.set_scheme(dark=True)
        page.evaluate("document.querySelector('[data-theme-choice=light]').click()")
        assert page.evaluate(ground) == light
        page.evaluate("document.querySelector('[data-theme-choice=auto]').click()")
        assert page.evaluate(ground) == dark


@pytest.mark.parametrize("which", ["report_file", "hostile_file"])
def test_a_phone_never_scrolls_sideways(browser: Browser, which: str, request: pytest.FixtureRequest) -> None:
    with browser.page(width=360, height=740) as page:
        page.open(request.getfixturevalue(which))
        assert page_checks.too_wide(page) == []
        page_checks.open_all_details(page)
        assert page_checks.too_wide(page) == []


@pytest.mark.parametrize("width", [390, 1280])
def test_no_axis_title_is_cut(browser: Browser, report_file: Path, width: int) -> None:
    cut = """Array.from(document.querySelectorAll('svg .axis-title')).filter(t => {
        const a = t.getBoundingClientRect(), b = t.ownerSVGElement.getBoundingClientRect();
        return a.left < b.left || a.right > b.right || a.top < b.top || a.bottom > b.bottom;
    }).map(t => t.textContent)"""
    with browser.page(width=width) as page:
        page.open(report_file)
        page_checks.open_all_details(page)
        assert page.evaluate("document.querySelectorAll('svg .axis-title').length") > 3
        assert page.evaluate(cut) == []


def test_the_keyboard_reaches_everything_and_is_seen(browser: Browser, report_file: Path) -> None:
    with browser.page() as page:
        page.open(report_file)
        order = page_checks.focus_order(page, 14)
        assert order[:4] == ["Skip to the content", "Auto", "Light", "Dark"]
        assert "Results" in order
        assert [name for name in order if name.startswith("!")] == []
        page.evaluate("document.querySelector('[data-theme-choice=dark]').focus()")
        page.press("Enter")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_skip_link_leads_to_the_content(browser: Browser, report_file: Path) -> None:
    with browser.page() as page:
        page.open(report_file)
        page.press("Tab")
        page.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"


def test_a_class_can_be_seen_alone_on_the_map(browser: Browser, report_file: Path) -> None:
    shown = "document.querySelectorAll('[data-map] g[data-group]:not(.faded)').length"
    with browser.page() as page:
        page.open(report_file)
        everything = page.evaluate(shown)
        page.evaluate("document.querySelector('[data-map] button[data-group=\"2\"]').focus()")
        page.press("Enter")
        first_map = "[data-map] button[data-group='2'][aria-pressed=true]"
        assert page.evaluate(f'document.querySelectorAll("{first_map}").length') == 1
        # The other map keeps all of its marks.
        assert page.evaluate(shown) == everything // 2 + 216 // len(CLASSES)
        page.press("Enter")
        assert page.evaluate(shown) == everything


def test_strips_can_be_filtered(browser: Browser, report_file: Path) -> None:
    visible = "Array.from(document.querySelectorAll('.strip')).filter(s => s.checkVisibility()).length"
    with browser.page() as page:
        page.open(report_file)
        assert page.evaluate(visible) == 6
        page.evaluate("document.querySelector('[data-show=wrong]').click()")
        assert page.evaluate(visible) == 2
        page.evaluate("document.querySelector('[data-show=all]').click()")
        assert page.evaluate(visible) == 6


def test_hostile_names_are_text_and_nothing_else(browser: Browser, hostile_file: Path) -> None:
    with browser.page() as page:
        page.open(hostile_file)
        page_checks.open_all_details(page)
        assert page.evaluate("window.hacked === undefined")
        assert page.evaluate("document.scripts.length") == 1
        assert page.evaluate("Array.from(document.images).every(i => i.src.startsWith('data:image/'))")
        assert page_checks.structure_problems(page) == []
        assert page.problems() == []
        assert "<script>window.hacked=1</script>" in page.evaluate("document.querySelector('h1').textContent")


def test_even_unescaped_script_would_not_run(browser: Browser, tmp_path: Path) -> None:
    page_text = render_report(make_report(), None).replace(
        "<main ", "<script>window.hacked=1</script><img src='x' onerror='window.hacked=2'><main ", 1
    )
    path = tmp_path / "broken.html"
    path.write_text(page_text, encoding="utf-8")
    with browser.page() as page:
        page.open(path)
        assert page.evaluate("window.hacked === undefined")
        assert page.evaluate("document.documentElement.classList.contains('js')")
        assert any("Content Security Policy" in problem for problem in page.problems())


def test_the_contrast_check_sees_what_it_should(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "grey.html"
    path.write_text(
        "<body style='background:#fff'><p style='color:#767676'>enough</p><p style='color:#777'>too little</p>"
        "<div style='background:#000'><span style='color:#fff9'>half white on black</span></div>"
        "<svg><text y='20' style='fill:#999'>in a drawing</text></svg>",
        encoding="utf-8",
    )
    with browser.page() as page:
        page.open(path)
        found = page_checks.contrast(page)
        assert found["checked"] == 4
        assert [line.split("> ", 1)[1] for line in found["bad"]] == ["too little", "in a drawing"]
