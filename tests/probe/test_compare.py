"""Two runs side by side: paired where it can be, honest where it cannot."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import FeatureStore
from pipeline.errors import CorruptDataError, FormatError, NotFoundError
from pipeline.recipe import parse_recipe
from pipeline.settings import Settings
from probe import session
from probe.pages.compare import (
    PREDICTION_COLUMNS,
    Run,
    compare_runs,
    load_run,
    load_stored_run,
    match_results,
    render_comparison,
)
from probe.pages.report import HTML_FILE
from probe.results import PREDICTIONS_FILE, REPORT_FILE, ProbeReport
from probe.stage import plan_probe, run_probe
from tests.support import page_checks
from tests.support.browser import Browser
from tests.support.probe_reports import make_report
from tests.support.stores import FEATURE_SET, make_store

NUM_ROWS, NUM_GROUPS = 200, 40


def predictions(report: ProbeReport, accuracy: float, seed: int = 0, groups: list[str] | None = None) -> pa.Table:
    """Made-up predictions of every result; the harder videos come last, so that two runs err alike."""
    rng = np.random.default_rng(seed)
    groups = groups or [f"g{i % NUM_GROUPS}" for i in range(NUM_ROWS)]
    tables = []
    for result in report.results:
        correct = np.arange(NUM_ROWS) < round(accuracy * NUM_ROWS)
        correct ^= rng.random(NUM_ROWS) < 0.02
        tables.append(
            pa.table(
                {
                    "result": [result.id] * NUM_ROWS,
                    "row": np.arange(NUM_ROWS),
                    "video_id": [f"v{i}.mp4" for i in range(NUM_ROWS)],
                    "group": groups,
                    "labels": [[f"c{i % 5}"] for i in range(NUM_ROWS)],
                    "predicted": ["c0"] * NUM_ROWS,
                    "correct": correct,
                }
            )
        )
    return pa.concat_tables(tables)


@pytest.fixture
def run_a() -> Run:
    report = make_report()
    return Run("A", report, predictions(report, 0.6))


def other(run: Run, accuracy: float, **update: object) -> Run:
    results = tuple(
        r.model_copy(update={"top1": accuracy, "interval": (accuracy - 0.1, accuracy + 0.1), "snapshot": "ff" * 32})
        for r in run.report.results
    )
    report = run.report.model_copy(update={"results": results, **update})
    return Run("B", report, predictions(report, accuracy, seed=1))


def test_a_large_difference_is_found_and_a_small_one_is_not(run_a: Run) -> None:
    better = compare_runs(run_a, other(run_a, 0.85))
    assert len(better.pairs) == 6
    assert {pair.words for pair in better.pairs} == {"B is better"}
    for pair in better.pairs:
        assert pair.difference == pytest.approx(0.25, abs=0.05)
        assert pair.interval is not None
        assert pair.interval[0] < pair.difference < pair.interval[1]
        assert pair.p_value is not None
        assert pair.p_value < 0.01
        assert (pair.num_rows, pair.num_groups) == (NUM_ROWS, NUM_GROUPS)
    assert {pair.words for pair in compare_runs(run_a, other(run_a, 0.605)).pairs} == {"no clear difference"}
    assert {pair.words for pair in compare_runs(other(run_a, 0.85), run_a).pairs} == {"A is better"}


def test_a_run_against_itself(run_a: Run) -> None:
    comparison = compare_runs(run_a, run_a)
    assert {pair.words for pair in comparison.pairs} == {"the same number of the same run"}
    assert {pair.difference for pair in comparison.pairs} == {0.0}
    assert comparison.differences == ()


def test_without_predictions_the_numbers_still_stand_side_by_side(run_a: Run) -> None:
    b = other(run_a, 0.85)
    comparison = compare_runs(run_a, Run("B", b.report, None))
    assert {pair.words for pair in comparison.pairs} == {"not paired: B stored no predictions"}
    assert comparison.pairs[0].difference == pytest.approx(0.85 - 0.68)
    assert comparison.pairs[0].p_value is None


def test_other_videos_or_groups_are_not_paired(run_a: Run) -> None:
    b = other(run_a, 0.85)
    assert b.predictions is not None
    renamed = b.predictions.set_column(
        2, "video_id", pa.array([f"x{v}" for v in b.predictions["video_id"].to_pylist()])
    )
    assert "no test video in common" in compare_runs(run_a, Run("B", b.report, renamed)).pairs[0].words
    regrouped = predictions(b.report, 0.85, groups=["all"] * NUM_ROWS)
    assert "another label or group" in compare_runs(run_a, Run("B", b.report, regrouped)).pairs[0].words


def test_only_the_common_videos_are_compared(run_a: Run) -> None:
    b = other(run_a, 0.85)
    assert b.predictions is not None
    fewer = b.predictions.filter(pa.compute.less(b.predictions["row"], 150))
    assert compare_runs(run_a, Run("B", b.report, fewer)).pairs[0].num_rows == 150


def test_the_same_probe_of_another_feature_set_is_matched(run_a: Run) -> None:
    results = tuple(
        r.model_copy(update={"id": r.id.replace("mobilenet_v2", "x3d_xs"), "feature_set": "x3d_xs"})
        for r in run_a.report.results
    )
    matched = match_results(run_a.report.results, results)
    assert all(a is not None and b is not None for a, b in matched)
    assert all(b.id == a.id.replace("mobilenet_v2", "x3d_xs") for a, b in matched if a and b)
    # Two candidates are no match: the reader would not know which one stands there.
    twice = results + tuple(r.model_copy(update={"id": r.id + "/again", "feature_set": "slow_r50"}) for r in results)
    assert all(a is None or b is None for a, b in match_results(run_a.report.results, twice))


def test_what_only_one_run_has_is_listed(run_a: Run) -> None:
    b = other(run_a, 0.85)
    fewer = b.report.model_copy(update={"results": b.report.results[1:]})
    words = [pair.words for pair in compare_runs(run_a, Run("B", fewer, b.predictions)).pairs]
    assert words[0] == "only in A"
    words = [pair.words for pair in compare_runs(Run("B", fewer, b.predictions), run_a).pairs]
    assert words[-1] == "only in B"


def test_text_json_and_remarks(run_a: Run) -> None:
    b = other(run_a, 0.85, dataset="another", versions={"torch": "9.9"}, recipe_content={"name": "b"})
    comparison = compare_runs(run_a, b)
    text = comparison.text()
    assert "68.0 % [58.0, 78.0] n=70" in text
    assert "B is better" in text
    assert "different datasets: jhmdb12 and another" in text
    assert "version.torch: 2.13.0 -> 9.9" in text
    assert "untrained" in text
    body = comparison.as_json()
    assert body["pairs"][0]["num_groups"] == NUM_GROUPS
    assert any(row[0] == "recipe.name" for row in body["differences"])


def test_reports_are_read_from_files_and_from_the_store(run_a: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / REPORT_FILE).write_text(run_a.report.model_dump_json())
    pq.write_table(run_a.predictions, folder / PREDICTIONS_FILE)
    for place in (folder, folder / REPORT_FILE):
        run = load_run(place)
        assert run.report == run_a.report
        assert run.predictions is not None
        assert run.predictions.num_rows == run_a.predictions.num_rows if run_a.predictions else 0
    store: FeatureStore = make_store(tmp_path / "store")
    ds = store.dataset("toy")
    files: dict[str, bytes | Path] = {name: (folder / name).read_bytes() for name in (REPORT_FILE, PREDICTIONS_FILE)}
    ds.save_artifact("reports", "first", files, {})
    stored = load_stored_run(store, "toy", "first")
    assert stored.report == run_a.report
    assert stored.predictions is not None
    # The store keeps files under names with their hash; its folder can be given as well.
    again = load_run(tmp_path / "store" / "toy" / "reports" / "first")
    assert again.report == run_a.report
    assert again.predictions is not None
    ds.save_artifact("reports", "bare", {REPORT_FILE: files[REPORT_FILE]}, {})
    assert load_stored_run(store, "toy", "bare").predictions is None
    with pytest.raises(NotFoundError, match="first"):
        load_stored_run(store, "toy", "third")


def test_what_is_no_report_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        load_run(tmp_path / "nowhere")
    file = tmp_path / REPORT_FILE
    for content in ("", "[]", '{"stage": "probe"}', "\x00"):
        file.write_text(content)
        with pytest.raises(FormatError, match="expected a probe report"):
            load_run(file)
    file.write_text(make_report().model_dump_json())
    (tmp_path / PREDICTIONS_FILE).write_bytes(b"PAR1 not really")
    with pytest.raises(CorruptDataError, match="Parquet"):
        load_run(file)
    pq.write_table(pa.table({"result": ["x"], "row": [0]}), tmp_path / PREDICTIONS_FILE)
    with pytest.raises(FormatError, match="none called correct"):
        load_run(file)


def test_two_stored_reports_of_the_probe_stage(tmp_path: Path) -> None:
    recipe = parse_recipe(
        {
            "name": "toy",
            "dataset": {"name": "toy", "videos": "*.mp4"},
            "crops": {"train16": {"policy": "random", "num_crops": 2}},
            "backbones": {FEATURE_SET: {"kind": "pytorchvideo", "model": "x3d_xs", "weights": {"random": 0}}},
            "probes": [{"kind": "knn", "crops": "train16", "k": [5], "readouts": ["mean"]}],
        }
    )
    rng = np.random.default_rng(0)
    classes = rng.integers(3, size=90)
    sides = ["train" if i % 3 else "test" for i in range(90)]
    runs = []
    for name, spread in (("noisy", 30.0), ("clear", 0.3)):
        means = np.eye(3, 8)[classes] * 4
        values = (means[:, None] + rng.standard_normal((90, 2, 8)) * spread).astype(np.float16)
        store = make_store(tmp_path / name, values=values, labels=[f"c{c}" for c in classes], splits=sides)
        run_probe(plan_probe(recipe, store, Settings()), store, Settings())
        runs.append(load_stored_run(store, "toy", "toy"))
    pairs = compare_runs(runs[0], runs[1]).pairs
    assert pairs
    for pair in pairs:
        assert pair.words == "B is better"
        assert pair.num_rows == 30
        assert pair.b is not None
        assert pair.b.top1 > 0.9
    html = store.dataset("toy").artifact("reports", "toy").read(HTML_FILE).decode()
    assert "video not at hand" in html


def test_the_predictions_that_the_stage_writes_can_be_read() -> None:
    source = inspect.getsource(session.predictions_file)
    assert all(f'"{column}"' in source for column in PREDICTION_COLUMNS)


@pytest.mark.service
@pytest.mark.parametrize("hostile", [False, True])
def test_the_page_in_a_browser(browser: Browser, run_a: Run, tmp_path: Path, hostile: bool) -> None:
    if hostile:
        report = make_report(hostile=True)
        run_a = Run("A<script>1</script>", report, predictions(report, 0.6))
    b = other(run_a, 0.85, versions={"torch": "9.9"})
    path = tmp_path / "compare.html"
    path.write_text(render_comparison(compare_runs(run_a, b)), encoding="utf-8")
    for dark, width in ((False, 1280), (True, 1280), (False, 360)):
        with browser.page(dark=dark, width=width) as page:
            page.open(path)
            assert page_checks.structure_problems(page) == []
            assert page_checks.contrast(page)["bad"] == []
            assert page_checks.too_wide(page) == []
            assert page.problems() == []
            assert page.evaluate("window.hacked === undefined")
            assert page.requests() == [path.as_uri()]
