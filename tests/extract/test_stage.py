"""The stage as a whole, on real files: what is committed, what is skipped, and that order does not matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from extract import plan_extract, run_extract
from extract.targets import resolve_targets
from pipeline import FeatureStore
from pipeline.errors import FingerprintMismatchError, InvalidInputError, NoDataError, ShapeMismatchError
from pipeline.events import Event, Progress, ShardFinished, StageFinished, StageStarted, VideoFailed
from pipeline.fingerprint import differing_fields
from pipeline.settings import Settings
from tests.support.extraction import (
    DEFAULT_CROPS,
    assert_same_features,
    catalogue,
    extract_all,
    make_videos,
    read_everything,
    tiny_recipe,
)
from tests.support.videos import numbered_frames, write_video


def test_a_whole_run_commits_every_crop_and_the_next_does_nothing(tmp_path, videos, program):
    recipe, settings = tiny_recipe(program), Settings(data=videos)
    events: list[Event] = []
    store, report = extract_all(recipe, tmp_path / "s", settings, events.append)
    assert report.did == {"shards_done": 6, "shards_skipped": 0, "videos_ok": 9, "videos_failed": 1, "crops": 70}
    assert [s.video_id for s in report.skipped] == ["v003.mp4"]
    assert isinstance(events[0], StageStarted)
    assert isinstance(events[-1], StageFinished)
    assert [e.done for e in events if isinstance(e, Progress)] == list(range(1, 11))
    assert sorted((e.shard, e.target) for e in events if isinstance(e, ShardFinished)) == sorted(
        (s, t) for s in range(3) for t in ("random3/tiny", "grid/tiny")
    )
    assert [e.status for e in events if isinstance(e, VideoFailed)] == ["too_short"]
    assert set(report.details["rates"]["per_busy_second"]) == {"decode", "preprocess", "forward", "write"}
    found = read_everything(store, recipe)
    for target in found.values():
        assert target["valid"].all()
        assert np.isfinite(target["values"]).all()
        assert (np.abs(target["values"]).max(axis=2) > 0).all()
        assert target["status"].tolist() == ["ok"] * 3 + ["too_short"] + ["ok"] * 6
    again = plan_extract(recipe, FeatureStore.open(store.url), settings)
    assert again.is_empty
    assert "nothing to do" in again.summary()
    second = run_extract(again, FeatureStore.open(store.url, mode="a"), settings)
    assert second.did == {"shards_done": 0, "shards_skipped": 6, "videos_ok": 0, "videos_failed": 0, "crops": 0}
    assert second.snapshot == report.snapshot
    assert second.fingerprint == report.fingerprint


def test_workers_batches_and_shard_order_change_nothing(tmp_path, videos, program):
    recipe = tiny_recipe(program)
    first, _ = extract_all(recipe, tmp_path / "a", Settings(data=videos, workers=1))
    url = tmp_path / "b"
    for shards in ([2], [0, 1]):
        second, _ = extract_all(recipe, url, Settings(data=videos, workers=3), shards=shards)
    assert_same_features(read_everything(first, recipe), read_everything(second, recipe))


def test_a_deleted_ledger_entry_redoes_that_shard_alone(tmp_path, videos, program):
    recipe, settings = tiny_recipe(program), Settings(data=videos)
    store, _ = extract_all(recipe, tmp_path / "s", settings)
    before = read_everything(store, recipe)
    (entry,) = (tmp_path / "s").glob("set/crops/grid/ledger/tiny/1-*.parquet")
    entry.unlink()
    plan = plan_extract(recipe, FeatureStore.open(store.url), settings)
    assert [(s.shard, [t.label for t in s.targets]) for s in plan.shards] == [(1, ["grid/tiny"])]
    assert plan.table()[0]["why"] == "no ledger entry"
    assert plan.ways == {"tiny": "plain"}  # as the shards beside it say
    report = run_extract(plan, FeatureStore.open(store.url, mode="a"), settings)
    assert report.did["shards_done"] == 1
    assert report.did["shards_skipped"] == 5
    assert_same_features(before, read_everything(FeatureStore.open(store.url), recipe))


def test_appended_videos_are_added_and_nothing_else_is_touched(tmp_path, program):
    folder = make_videos(tmp_path / "data", [20, 25, 30, 22, 26])
    recipe, settings = tiny_recipe(program), Settings(data=folder)
    store, _ = extract_all(recipe, tmp_path / "s", settings)
    before = read_everything(store, recipe)
    make_videos(folder, [24, 28], prefix="w")
    store, report = extract_all(recipe, tmp_path / "s", settings)
    assert report.did["shards_done"] == 2
    assert report.did["videos_ok"] == 2
    after = read_everything(store, recipe)
    for label in before:
        np.testing.assert_array_equal(after[label]["values"][:5], before[label]["values"])
        assert after[label]["valid"].all()
        assert len(after[label]["values"]) == 7


def test_every_bad_file_is_a_row_with_a_status(tmp_path, program):
    folder = make_videos(tmp_path / "data", [20, 30])
    whole = write_video(
        folder / "half.mp4", numbered_frames(60, height=120, width=160), container_options={"movflags": "faststart"}
    )
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    (folder / "text.mp4").write_text("this is no video\n" * 50)
    (folder / "empty.mp4").write_bytes(b"")
    write_video(folder / "gone.mp4", numbered_frames(20))
    recipe, settings = tiny_recipe(program), Settings(data=folder)
    store = FeatureStore.create(str(tmp_path / "s"))
    catalogue(recipe, store, settings)
    (folder / "gone.mp4").unlink()
    report = run_extract(plan_extract(recipe, store, settings), store, settings)
    status = {r["video_id"]: r for r in store.dataset("set").status("grid", "tiny").to_pylist()}
    assert {k: v["status"] for k, v in status.items()} == {
        "empty.mp4": "unreadable",
        "gone.mp4": "missing",
        "half.mp4": "partial",
        "text.mp4": "unreadable",
        "v000.mp4": "ok",
        "v001.mp4": "ok",
    }
    assert all(v["error"] for v in status.values() if v["status"] != "ok")
    assert report.did["videos_failed"] == 4
    assert not report.is_partial
    valid = read_everything(store, recipe)["grid/tiny"]["valid"].all(axis=1)
    assert valid.tolist() == [False, False, True, False, True, True]


def test_retry_tries_again_what_came_back_and_counts_attempts(tmp_path, program):
    folder = make_videos(tmp_path / "data", [20, 30])
    recipe, settings = tiny_recipe(program), Settings(data=folder)
    store = FeatureStore.create(str(tmp_path / "s"))
    catalogue(recipe, store, settings)
    lost = (folder / "v001.mp4").read_bytes()
    (folder / "v001.mp4").unlink()
    run_extract(plan_extract(recipe, store, settings), store, settings)
    assert plan_extract(recipe, store, settings).is_empty
    (folder / "v001.mp4").write_bytes(lost)
    plan = plan_extract(recipe, store, settings, retry=["missing"])
    assert plan.num_videos == 1
    assert "retry: missing" in plan.table()[0]["why"]
    run_extract(plan, store, settings)
    rows = store.dataset("set").status("grid", "tiny").to_pylist()
    assert [(r["status"], r["attempts"]) for r in rows] == [("ok", 1), ("ok", 2)]
    clean, _ = extract_all(recipe, tmp_path / "clean", settings)
    assert_same_features(read_everything(store, recipe), read_everything(clean, recipe))


def test_retry_of_what_fails_again_ends(tmp_path, program):
    folder = make_videos(tmp_path / "data", [20])
    (folder / "text.mp4").write_text("no video")
    recipe, settings = tiny_recipe(program), Settings(data=folder)
    store, _ = extract_all(recipe, tmp_path / "s", settings)
    _, report = extract_all(recipe, tmp_path / "s", settings, retry=["unreadable"])
    assert report.did["shards_done"] == 2
    rows = store.dataset("set").status("grid", "tiny").to_pylist()
    assert [(r["status"], r["attempts"]) for r in rows] == [("unreadable", 2), ("ok", 1)]


def test_streams_are_feature_sets_over_the_same_boxes(tmp_path, videos, program):
    recipe = tiny_recipe(program, streams=("rgb", "tgrad"))
    store, _ = extract_all(recipe, tmp_path / "s", Settings(data=videos))
    found = read_everything(store, recipe)
    np.testing.assert_array_equal(found["grid/tiny"]["geometry"], found["grid/tiny-tgrad"]["geometry"])
    assert not np.allclose(found["grid/tiny"]["values"], found["grid/tiny-tgrad"]["values"], atol=1e-3)
    alone, _ = extract_all(tiny_recipe(program), tmp_path / "alone", Settings(data=videos))
    rgb = read_everything(alone, tiny_recipe(program))["grid/tiny"]
    np.testing.assert_allclose(found["grid/tiny"]["values"], rgb["values"], atol=1e-5)


def test_two_backbones_with_different_frames_and_sizes_in_one_pass(tmp_path, videos, program):
    path, sha256 = program
    spec = {"kind": "exported", "weights": {"path": str(path), "sha256": sha256}, "num_frames": 4, "size_px": 16}
    crops = {"long": {**DEFAULT_CROPS["random3"], "num_frames": 8, "stride": 1}}
    both = {"a": spec, "b": {**spec, "mean": [0.5] * 3, "std": [0.5] * 3, "dtype": "float32"}}
    recipe = tiny_recipe(program, crops=crops, backbones=both)
    store, report = extract_all(recipe, tmp_path / "s", Settings(data=videos))
    assert report.did["crops"] == 2 * 3 * 10
    info = store.dataset("set").feature_info("long", "a")
    assert info.dtype == "float16"
    assert info.fingerprint["preprocessing"]["num_frames"] == 4
    assert info.fingerprint["crops"]["num_frames"] == 8


def test_features_that_are_no_numbers_are_masked(tmp_path, videos, program):
    recipe = tiny_recipe(program, dtype="float16", std=(1e-7, 1e-7, 1e-7))
    store, report = extract_all(recipe, tmp_path / "s", Settings(data=videos))
    found = read_everything(store, recipe)["grid/tiny"]
    assert "non_finite" in found["status"].tolist()
    assert report.did["videos_failed"] >= found["status"].tolist().count("non_finite")
    assert np.isfinite(found["values"]).all()
    assert not found["values"][~found["valid"]].any()


def test_other_preprocessing_under_the_same_name_is_refused_before_any_work(tmp_path, videos, program):
    settings = Settings(data=videos)
    store, _ = extract_all(tiny_recipe(program), tmp_path / "s", settings)
    with pytest.raises(FingerprintMismatchError, match=r"preprocessing\.mean") as caught:
        plan_extract(tiny_recipe(program, mean=(0.5, 0.5, 0.5)), store, settings)
    assert "preprocessing.mean" in caught.value.fields


def test_plans_say_what_they_do_not_know_and_refuse_what_cannot_be(tmp_path, videos, program):
    recipe, settings = tiny_recipe(program), Settings(data=videos)
    store = FeatureStore.create(str(tmp_path / "s"))
    plan = plan_extract(recipe, store, settings)
    assert not plan.is_empty
    assert "unknown" in plan.summary()
    assert {row["why"] for row in plan.table()} == {plan.table()[0]["why"]}
    with pytest.raises(NoDataError, match="run catalog first"):
        run_extract(plan, store, settings)
    catalogue(recipe, store, settings)
    assert plan_extract(recipe, store, settings, targets=["grid"]).num_crops == 40
    for options in ({"shards": [7]}, {"retry": ["nonsense"]}, {"targets": ["nonsense"]}):
        with pytest.raises(InvalidInputError, match="expected"):
            plan_extract(recipe, store, settings, **options)
    few = {"grid": {**DEFAULT_CROPS["grid"], "num_frames": 2}}
    with pytest.raises(ShapeMismatchError, match="num_frames"):
        plan_extract(tiny_recipe(program, crops=few), store, settings)


def test_image_folders_and_nested_names_work(tmp_path, program):
    folder = tmp_path / "data"
    write_video(folder / "ö ä" / "x y.mp4", numbered_frames(20))
    recipe = tiny_recipe(program)
    recipe = recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"videos": "**/*.mp4"})})
    store, report = extract_all(recipe, tmp_path / "s", Settings(data=folder))
    assert report.did["videos_ok"] == 1
    assert isinstance(Path(store.url), Path)


def test_the_precision_of_a_gpu_is_part_of_the_fingerprint_unless_it_is_the_usual_one(tmp_path, videos, program):
    settings = Settings(data=videos)
    usual, named, other = (
        resolve_targets(tiny_recipe(program, **extra), settings, decoder={"name": "x"}, only=["grid"])[0].fingerprint
        for extra in ({}, {"precision": "float16"}, {"precision": "bfloat16"})
    )
    assert usual == named
    assert "precision" not in usual["backbone"]
    assert differing_fields(dict(usual), dict(other)) == {"backbone.precision": (None, "bfloat16")}
    store, _ = extract_all(tiny_recipe(program), tmp_path / "store", settings)
    with pytest.raises(FingerprintMismatchError, match="precision"):
        plan_extract(tiny_recipe(program, precision="bfloat16"), store, settings)


@pytest.mark.slow
def test_another_decoder_gives_the_same_pixels_under_another_fingerprint(tmp_path, videos, program):
    try:
        import torchcodec  # noqa: F401
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"torchcodec does not import here ({str(error).splitlines()[0]}); make system")
    recipe = tiny_recipe(program)
    mine, baseline = extract_all(recipe, tmp_path / "pyav", Settings(data=videos))
    other, report = extract_all(recipe, tmp_path / "torchcodec", Settings(data=videos, decoder="torchcodec"))
    assert report.did == baseline.did
    for label, found in read_everything(other, recipe).items():
        expected = read_everything(mine, recipe)[label]
        assert np.array_equal(found["geometry"], expected["geometry"])
        np.testing.assert_allclose(found["values"], expected["values"], atol=1e-4)
    assert other.dataset("set").feature_info("grid", "tiny").fingerprint["decoder"]["name"] == "torchcodec"
    with pytest.raises(FingerprintMismatchError, match=r"decoder\.name"):
        extract_all(recipe, tmp_path / "pyav", Settings(data=videos, decoder="torchcodec"))
