"""The report as text: everything escaped, nothing fetched, every number there, words for what is missing."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.look.pages import look_style
from probe.found import TrainingFound
from probe.pages import charts, report_view
from probe.pages.page import data_uri
from probe.pages.report import HTML_FILE, comparison_lines, holm, provenance, render_report
from probe.pages.strips import MAX_STRIPS, alternate
from probe.results import Coverage, LeakCheck, PairedComparison, ProbeReport
from tests.support.probe_reports import CLASSES, HOSTILE, frame_bytes, frames_of, make_report

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Reader(HTMLParser):
    """Collects what a browser would fetch or run, and checks that tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.scripts = 0
        self.handlers: list[str] = []
        self.inline_styles = 0
        self.stack: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                self.references.append(value or "")
            self.handlers += [name] if name.startswith("on") else []
            self.inline_styles += name == "style"
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID or (tag == "p" and self.stack[-1] != "p"):
            return
        if tag != self.stack[-1] and self.stack[-1] in ("li", "dd", "dt", "p"):
            self.stack.pop()
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack[-1:] not in (["script"], ["style"]):
            self.text.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.stack == []
    return reader


def test_nothing_is_fetched_and_only_our_script_is_there() -> None:
    reader = read(render_report(make_report(), frames_of))
    outside = [r for r in reader.references if not r.startswith(("#", "data:"))]
    assert outside == []
    assert reader.scripts == 1
    assert reader.handlers == []
    assert reader.inline_styles == 0


def test_hostile_names_stay_text() -> None:
    page = render_report(make_report(hostile=True), frames_of)
    reader = read(page)
    assert reader.scripts == 1
    assert reader.handlers == []
    assert [r for r in reader.references if not r.startswith(("#", "data:"))] == []
    assert HOSTILE in "".join(reader.text)
    assert "<script>window" not in page


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_label_and_id_survives_the_page(name: str) -> None:
    report = make_report(classes=("plain", "x" + name), num_test=4)
    small = report.model_copy(
        update={"results": report.results[:1], "maps": report.maps[:1], "recipe_content": {name: name}}
    )
    reader = read(render_report(small))
    assert reader.scripts == 1
    assert reader.handlers == []


def test_the_policy_names_the_hashes_of_style_and_script() -> None:
    page = render_report(make_report(), None)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    text = policy.group(1).replace("&#39;", "'")
    assert "default-src 'none'" in text
    for tag in ("style", "script"):
        inline = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert inline is not None
        digest = base64.b64encode(hashlib.sha256(inline.group(1).encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in text


def test_every_result_stands_in_the_page_with_interval_and_coverage() -> None:
    report = make_report()
    text = " ".join("".join(read(render_report(report, None)).text).split())
    for result in report.results:
        assert f"{result.top1 * 100:.1f} %" in text
        assert f"{result.interval[0] * 100:.1f} % to {result.interval[1] * 100:.1f} %" in text
    assert "2 unreadable" in text
    assert "golf/broken.avi" in text
    for value in (report.snapshot, report.fingerprint, "2.13.0", "21 November 2026, 01:20 UTC"):
        assert value in text


def test_the_summary_names_the_first_headline_not_the_best() -> None:
    report = make_report()
    assert max(r.top1 for r in report.results) > report.results[0].top1
    assert "68.0 % top" in report_view.summary(report)
    assert "chance 8.3 %" in report_view.summary(report)


def test_an_empty_report_says_so() -> None:
    report = ProbeReport(stage="probe", recipe="nothing")
    page = render_report(report, None)
    assert "No probe has produced a number" in page
    read(page)


def test_videos_that_are_gone_get_a_placeholder() -> None:
    page = render_report(make_report(), None)
    assert "<img" not in page
    assert page.count("video not at hand") == 6 * 6
    with_frames = render_report(make_report(), frames_of)
    assert with_frames.count("video not at hand") == 1


def test_frames_that_are_no_pictures_are_left_out() -> None:
    page = render_report(make_report(), lambda row: [b"<svg onload=alert(1)>", b"GIF89a", b""])
    assert "<img" not in page


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_pictures_become_data_addresses(form: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, form)
    uri = data_uri(buffer.getvalue())
    assert uri is not None
    assert uri.startswith(f"data:image/{form.lower()};base64,")
    assert base64.b64decode(uri.split(",")[1]) == buffer.getvalue()
    assert data_uri(buffer.getvalue() + bytes(1 << 20)) is None


def test_each_video_is_decoded_once() -> None:
    asked: list[int] = []

    def frames(row: int) -> list[bytes]:
        asked.append(row)
        return [frame_bytes(row, 0)]

    render_report(make_report(), frames)
    assert len(asked) == len(set(asked)) == 36


def test_right_and_wrong_strips_take_turns() -> None:
    strips = make_report().strips
    assert [s.correct for s in alternate(strips)] == [True, False, True, False, True, True]
    assert (
        len(render_report(make_report().model_copy(update={"strips": strips * 5}), None).split('class="strip card"'))
        - 1
        == MAX_STRIPS
    )


def test_remarks_tell_the_truth() -> None:
    report = make_report()
    badges = [(r.level, r.badge) for r in report_view.remarks(report)]
    assert badges[:2] == [("bad", "Doubt"), ("warn", "Caution")]  # worst first
    assert ("good", "Clean") in badges
    assert ("good", "No leak") in badges
    assert ("warn", "Coverage") in badges
    leak = LeakCheck(crops="c", feature_set="f", split="1", threshold=0.98, num_test=9, num_near=3, num_same_file=1,
                     num_shared_groups=2, max_similarity=1.0, action="excluded")  # fmt: skip
    full = Coverage(crops="c", feature_set="f", readout="mean", used_train=3, used_test=9)
    changed = report.model_copy(update={"leaks": (leak,), "chosen_on_test": ("the epoch",), "coverage": (full,)})
    remarks = report_view.remarks(changed)
    badges = [(r.level, r.badge) for r in remarks]
    assert ("bad", "Chosen on test") in badges
    assert ("good", "Clean") not in badges
    assert ("good", "Complete") in badges
    text = next(r.text for r in remarks if r.badge == "Leak")
    assert "3 of 9 test videos" in text
    assert "excluded" in text
    assert "2 groups have videos on both sides" in text
    groups = leak.model_copy(update={"num_near": 0, "num_same_file": 0, "num_shared_groups": 1})
    remarks = report_view.remarks(report.model_copy(update={"leaks": (groups,)}))
    assert next(r for r in remarks if r.badge == "Shared groups").level == "warn"
    warning = f"{leak.crops}/{leak.feature_set}, split 1: of 9 test videos, 3 have a near-duplicate"
    twice = report.model_copy(update={"leaks": (leak,), "warnings": (warning, "another")})
    assert [r.text for r in report_view.remarks(twice) if r.badge == "Caution"] == ["another"]


def test_a_comparison_in_words() -> None:
    pair = PairedComparison(
        a="x", b="y", num_rows=10, num_groups=5, difference=0.1, interval=(-0.02, 0.2), p_value=4e-4, only_a=1, only_b=3
    )
    others = [pair.model_copy(update=u) for u in ({"p_value": 0.2}, {"difference": -0.1}, {"p_value": 0.04})]
    rows = comparison_lines(make_report().model_copy(update={"comparisons": (pair, *others)}))
    assert [row["words"] for row in rows] == [
        "the second is better",
        "no clear difference",
        "the first is better",
        "perhaps the second; not clear among so many",
    ]
    assert rows[0]["p"] == "< 0.001"
    assert rows[0]["difference"] == "+10.0 points"
    assert rows[0]["interval"] == "\N{MINUS SIGN}2.0 to +20.0"


def test_holm_against_a_worked_example() -> None:
    # 0.01 * 4, then 0.02 * 3, 0.03 * 2 (0.06, kept monotone), 0.04 * 1 (raised to 0.06).
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_dates_are_written_for_people() -> None:
    assert report_view.date_text("2026-11-21T01:34:39+00:00") == "21 November 2026, 01:34 UTC"
    assert report_view.date_text("") == ""
    assert report_view.date_text("yesterday") == "yesterday"


def test_large_confusion_matrices_are_drawn() -> None:
    small = report_view.confusions(make_report())[0]
    assert small.svg is None
    assert len(small.lines) == len(CLASSES)
    assert all(sum(count for count, _, _ in cells) == 6 for _, cells, _ in small.lines)
    large = report_view.confusions(make_report(classes=tuple(f"class {i:03d}" for i in range(60)), num_test=120))[0]
    assert large.lines == ()
    assert large.svg is not None
    assert 'role="img"' in large.svg


def test_confused_pairs_are_the_largest_off_the_diagonal() -> None:
    counts = ((5, 1, 0), (4, 2, 0), (0, 0, 3))
    assert report_view._confused_pairs(counts, ("a", "b", "c")) == (("b", "a", 4, 6), ("a", "b", 1, 6))


def test_provenance_has_no_empty_line() -> None:
    assert all(value for _, value in provenance(make_report()))
    names = [name for name, _ in provenance(make_report())]
    assert {"Recipe", "Snapshot", "Fingerprint", "Seed", "Versions", "Machine", "Split"} <= set(names)


@given(
    low=st.floats(-1e6, 1e6, allow_nan=False),
    width=st.floats(1e-6, 1e6, allow_nan=False),
    count=st.integers(2, 10),
)
def test_ticks_are_round_and_cover_the_range(low: float, width: float, count: int) -> None:
    ticks = charts.nice_ticks(low, low + width, count)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + step * 1e-3
    assert ticks[-1] >= low + width - step * 1e-3
    assert len(ticks) <= count + 3


@given(
    st.lists(
        st.tuples(st.floats(allow_nan=True, allow_infinity=True), st.floats(allow_nan=True)), min_size=1, max_size=6
    )
)
def test_a_line_chart_never_writes_nan(points: list[tuple[float, float]]) -> None:
    series = charts.Series("s", tuple(x for x, _ in points), tuple(y for _, y in points))
    svg = charts.line_chart([series], label="a chart of numbers", x_label="x", y_label="y", percent=False)
    coordinates = re.findall(r'(?:points|x|y|cx|cy|x1|y1)="([^"]*)"', svg)
    assert not any("nan" in c or "inf" in c for c in coordinates)


def test_heat_levels_span_the_range() -> None:
    assert charts.heat_level(0) == 0
    assert charts.heat_level(1e-9) == 1
    assert charts.heat_level(1) == 9
    levels = [charts.heat_level(i / 100) for i in range(101)]
    assert levels == sorted(levels)


def test_a_map_keeps_distances_alike_on_both_axes() -> None:
    points = [charts.Point(0, 0, 0, True, "a"), charts.Point(3, 0, 0, True, "b"), charts.Point(0, 3, 0, True, "c")]
    svg = charts.scatter_map(points, label="three points", x_label="x", y_label="y")
    centres = [tuple(map(float, c)) for c in re.findall(r'<circle[^>]* cx="([^"]+)" cy="([^"]+)"', svg)]
    a, b, c = centres
    assert math.isclose(b[0] - a[0], a[1] - c[1], abs_tol=0.2)


def test_both_dark_schemes_are_the_same() -> None:
    style = look_style()
    blocks = re.findall(r'data-theme="(?:light|dark)"\]\)? \{\s*color-scheme: dark;(.*?)\}', style, re.DOTALL)
    assert len(blocks) == 2
    assert "".join(blocks[0].split()) == "".join(blocks[1].split())


def test_the_name_of_the_file_is_the_one_the_stage_writes() -> None:
    from probe import stage

    assert stage.HTML_FILE == HTML_FILE


def test_the_other_protocol_stands_beside_the_headline() -> None:
    report = make_report()
    strict = next(r for r in report.results if r.probe == "knn" and r.protocol == "strict")
    scale = strict.model_copy(update={"protocol": "scale", "k": 20, "top1": 0.4321, "is_headline": False})
    other = scale.model_copy(update={"readout": "another", "top1": 0.9})
    assert report_view.beside_text(strict, (strict, other)) == ""
    assert report_view.beside_text(strict, (strict, other, scale)) == "SCALE's protocol, k = 20: 43.2 %"
    selected = strict.model_copy(update={"probe": "linear", "protocol": "selected", "seed": 1})
    lasts = [selected.model_copy(update={"protocol": "last", "seed": seed, "top1": seed / 10}) for seed in (0, 1)]
    assert report_view.beside_text(selected, lasts) == "last epoch: 10.0 %"
    page = " ".join(read(render_report(report.model_copy(update={"results": (strict, scale)}), None)).text)
    assert "SCALE's protocol, k = 20: 43.2 %" in page


def test_what_was_chosen_in_words() -> None:
    result = make_report().results[0]
    chosen = {"learning_rate": 3e-3, "weight_decay": 1.0, "epoch": 12, "epochs": 60}
    result = result.model_copy(update={"found": TrainingFound(selected=chosen, chosen_on="5 folds")})
    assert report_view.chosen_text(result) == "learning rate 0.003, weight decay 1, epoch 12 of 60; 5 folds"
    assert report_view.chosen_text(result.model_copy(update={"found": TrainingFound(chosen_on="5 folds")})) == "5 folds"


def test_the_loss_curve_stands_beside_the_level_of_guessing() -> None:
    page = render_report(make_report())
    section = page[page.index('id="training"') : page.index('id="confusion"')]
    assert section.count('<svg class="chart"') == 1  # of the model whose figures are gone there is none
    assert 'class="reference"' in section
    assert "Training loss of model scale: from 6.5 to 4.505; guessing gives 4.51." in section
    assert section.count("<tr>") <= 14
    assert '<span class="badge bad">Doubt</span><span>model scale: training ended at chance</span>' in page
    assert 'id="training"' not in render_report(make_report().model_copy(update={"trainings": ()}))
