"""The texts that runs leave in the Prefect UI."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.rates import Rates
from flows.artifacts import (
    MAX_LINES,
    add_rates,
    artifact_key,
    escape,
    markdown_table,
    page_address,
    plan_markdown,
    probe_lines,
    report_markdown,
    run_markdown,
)
from pipeline.reports import SkippedVideo, StageReport, merge_reports


class _Plan:
    stage = "extract"
    is_empty = False

    def summary(self):
        return "2 shards, 8 videos"

    def table(self):
        return [{"shard": 0, "rows": 4, "why": "new"}, {"shard": 1, "rows": 4, "why": "a|b <script>"}]


def test_a_plan_is_a_table_with_its_reasons():
    text = plan_markdown(_Plan())
    assert "| shard | rows | why |" in text
    assert "2 shards, 8 videos" in text
    assert "<script>" not in text
    assert "a\\|b" in text


def test_a_report_counts_failures_by_reason():
    rates = Rates()
    rates.add("decode", 2.0, 240)
    skipped = tuple(SkippedVideo(row=i, video_id=f"v{i}", status="unreadable", error="no frame") for i in range(3))
    report = StageReport(
        stage="extract",
        recipe="r",
        did={"shards_done": 2},
        seconds=1.5,
        num_bytes=3 << 20,
        skipped=(*skipped, SkippedVideo(row=9, video_id="w", status="missing", error="")),
        details={"rates": rates.as_details()},
        fingerprint="f" * 64,
        snapshot="s" * 64,
    )
    text = report_markdown(report)
    assert "| unreadable | 3 | no frame |" in text
    assert "| missing | 1 |  |" in text
    assert "| shards done | 2 |" in text
    assert "| decode | 2.0 | 120.0 frames |" in text
    assert "3.0 MiB" in text


def test_long_tables_say_how_much_is_left_out():
    text = markdown_table([{"n": i} for i in range(MAX_LINES + 7)])
    assert text.count("\n|") < MAX_LINES + 7
    assert "and 7 more" in text


@given(st.text(max_size=60))
def test_untrusted_text_stays_text(text):
    shown = escape(text)
    assert "<" not in shown
    assert "\n" not in shown
    assert "|" not in shown.replace("\\|", "")


@given(st.lists(st.text(max_size=20), min_size=1, max_size=3))
def test_keys_are_what_prefect_accepts(parts):
    assert all(c.isascii() and (c.islower() or c.isdigit() or c == "-") for c in artifact_key(*parts))


def test_probe_lines_show_percent_and_interval():
    rows = probe_lines(
        [
            {
                "probe": "knn",
                "readout": "mean",
                "k": 20,
                "temperature": 0.07,
                "top1": 0.681,
                "interval": [0.57, 0.78],
                "used": 72,
            }
        ]
    )
    assert rows[0]["setting"] == "k=20 T=0.07"
    assert rows[0]["top-1 %"] == 68.1
    assert rows[0]["95 % interval"] == "57.0 - 78.0"


def test_merged_reports_add_up():
    parts = [StageReport(stage="extract", recipe="r", did={"crops": n}, seconds=1.0, snapshot=str(n)) for n in (1, 2)]
    merged = merge_reports(parts)
    assert (merged.did, merged.seconds, merged.snapshot) == ({"crops": 3}, 2.0, "2")


def test_rates_of_parts_are_those_of_the_whole():
    whole, parts = Rates(), []
    for seconds, frames in ((1.0, 100), (4.0, 100), (0.0, 0)):
        part = Rates()
        part.add("decode", seconds, frames)
        whole.add("decode", seconds, frames)
        parts.append(StageReport(stage="extract", recipe="r", details={"rates": part.as_details()}))
    assert add_rates(parts) == whole.as_details()
    assert add_rates([StageReport(stage="extract", recipe="r")]) == {"busy_seconds": {}, "per_busy_second": {}}


def test_a_run_lists_its_stages_and_its_numbers():
    probes = {"probes": [{"probe": "knn", "readout": "mean", "k": 1, "top1": 0.5, "interval": [0.4, 0.6]}]}
    text = run_markdown(
        [
            StageReport(stage="extract", recipe="r", did={"shards_done": 3, "shards_skipped": 0}, seconds=2.0),
            StageReport(stage="embed", recipe="r", did={"shards_done": 0}),
            StageReport(stage="probe", recipe="r", did={"probes_run": 1}, details=probes),
        ]
    )
    assert "| extract | 3 shards done | 2.0 |" in text
    assert "| embed | nothing to do | 0.0 |" in text
    assert "| knn |" in text


@pytest.mark.parametrize(
    ("pages", "artifact", "expected"),
    [
        ("http://h:8500/store", "set/reports/my run", "http://h:8500/store/set/reports/my%20run/page"),
        ("http://h:8500/store/", "set/reports/a", "http://h:8500/store/set/reports/a/page"),
        (None, "set/reports/a", None),
        ("http://h:8500/store", None, None),
    ],
)
def test_a_report_is_linked_where_it_is_served(pages, artifact, expected):
    report = StageReport(stage="probe", recipe="r", details={"artifact": artifact} if artifact else {})
    assert page_address(report, pages) == expected
