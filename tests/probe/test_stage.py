"""The stage on real stores: what is measured, on whom, why others are left out, and when nothing is redone."""

from __future__ import annotations

import importlib.metadata
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import FeatureStore
from pipeline.errors import NoDataError, NotFoundError, RecipeError
from pipeline.events import Event, Note
from pipeline.recipe import Recipe, parse_recipe
from pipeline.settings import Settings
from probe import plan_probe, read_report, run_probe, stage
from probe.data.features import read_split
from probe.results import PREDICTIONS_FILE, ProbeReport
from tests.support.stores import fill_embeddings, make_store

KNN = {"kind": "knn", "crops": "c", "k": [1, 3, 20]}
LINEAR = {"kind": "linear", "crops": "c", "epochs": 4, "learning_rates": [1e-2], "weight_decays": [0.1]}
NUM = 40
LABELS = ["run", "walk"] * (NUM // 2)
SPLITS = ["train"] * 24 + ["test"] * 16


def recipe(*probes: dict[str, Any], embed: bool = False, **more: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": "toy-run",
        "dataset": {"name": "toy", "videos": "*.mp4"},
        "crops": {"c": {"policy": "random", "num_crops": 4}},
        "backbones": {"x3d_xs": {"kind": "pytorchvideo", "model": "x3d_xs", "weights": {"random": 3}}},
        "probes": list(probes) or [KNN],
        **more,
    }
    if embed:
        content |= {"train": {"crops": "c", "backbone": "x3d_xs"}, "embed": [{"crops": "c"}]}
    return parse_recipe(content)


def values(labels: list[str] = LABELS) -> np.ndarray:
    """Two well separated classes."""
    rng = np.random.default_rng(0)
    centres = {label: rng.standard_normal(12) * 2 for label in sorted(set(labels))}
    return np.stack([centres[label] + 0.3 * rng.standard_normal((4, 12)) for label in labels]).astype(np.float32)


def store_at(folder: Path, **more: Any) -> FeatureStore:
    content: dict[str, Any] = {"labels": LABELS, "splits": SPLITS, "values": values(), **more}
    return make_store(folder, crops="c", feature_set="x3d_xs", **content)


def measure(store: FeatureStore, wanted: Recipe, events: list[Event] | None = None) -> ProbeReport:
    settings = Settings(device="cpu")
    heard = events if events is not None else []
    return run_probe(plan_probe(wanted, store, settings), store, settings, heard.append, render=lambda report: "<html>")


def test_all_probes_on_a_store_with_embeddings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "probe")
    events: list[Event] = []
    store = store_at(tmp_path)
    fill_embeddings(store, "scale", values().mean(axis=1)[:, :5])
    attentive = {**LINEAR, "kind": "attentive"}
    low_shot = {**LINEAR, "readouts": ["mean"], "fractions": [0.25], "per_class": [2], "num_seeds": 2}
    random_crop = {"kind": "retrieval", "crops": "c", "gallery": "random_crop", "exclude_siblings": True}
    wanted = recipe(KNN, LINEAR, attentive, low_shot, {"kind": "retrieval", "crops": "c"}, random_crop, embed=True)
    report = measure(store, wanted, events)
    ids = [result.id for result in report.results]
    assert len(ids) == len(set(ids))
    assert {(r.probe, r.readout) for r in report.results} >= {
        ("knn", "mean"), ("knn", "cls"), ("knn", "joined"), ("linear", "mean"), ("linear", "crops"),
        ("linear", "cls"), ("linear", "joined"), ("attentive", "attention"), ("retrieval", "mean"),
    }  # fmt: skip
    assert all(r.top1 == 1.0 for r in report.results if r.probe == "knn" and r.found.k == 3)
    assert all(r.snapshot and r.fingerprint and r.used == 16 and not r.excluded for r in report.results)
    strict, theirs = (
        next(r for r in report.results if r.said("k") == 20 and r.protocol == p) for p in ("strict", "scale")
    )
    assert (strict.found.centring, theirs.found.centring, strict.found.k_used) == ("train", "per_split", 20)
    trained = [r for r in report.results if r.probe == "linear"]
    assert {r.protocol for r in trained} == {"selected", "last"}
    assert all(
        "held out by group" in r.found.chosen_on
        for r in trained
        if r.found.fraction == 1 and r.found.n_per_class is None
    )
    assert {(r.found.n_per_class, r.num_train, r.seed) for r in trained if r.found.n_per_class} == {
        (2, 4, 0),
        (2, 4, 1),
    }
    assert {c.name for r in report.results for c in r.curves} == {"k", "crops", "epoch"}
    assert report.chosen_on_test == ()
    assert any("untrained" in line for line in report.warnings)
    assert report.comparisons
    assert report.maps
    assert report.strips
    assert {"probe", "readout", "k", "temperature", "top1", "interval", "used", "excluded"} <= set(report.lines()[0])
    epochs = [record for record in caplog.records if "epoch 8 of 8" in record.getMessage()]
    assert epochs  # for who debugs; nobody else hears of single epochs
    assert all(record.levelno == logging.DEBUG for record in epochs)
    assert not [event for event in events if isinstance(event, Note) and "epoch" in event.text]


def test_nothing_is_redone_until_something_changed(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    first = measure(store, recipe())
    assert first.did == {"probes_run": 1, "reports_skipped": 0}
    plan = plan_probe(recipe(), store, Settings())
    assert plan.is_empty
    assert "up to date" in plan.summary()
    again = measure(store, recipe())
    assert again.did == {"probes_run": 0, "reports_skipped": 1}
    assert again.results == first.results
    assert read_report(store.dataset("toy"), "toy-run").results == first.results
    changed = recipe({**KNN, "k": [5]})
    assert not plan_probe(changed, store, Settings()).is_empty
    assert measure(store, changed).did["probes_run"] == 1
    fill_embeddings(store, "scale", values().mean(axis=1))
    assert measure(store, recipe(embed=True)).did["probes_run"] == 1


def test_a_second_run_gives_the_same_numbers(tmp_path: Path) -> None:
    both = [measure(store_at(tmp_path / name), recipe(KNN, LINEAR)) for name in ("a", "b")]
    for one, two in zip(both[0].results, both[1].results, strict=True):
        assert (one.id, one.top1, one.interval) == (two.id, two.top1, two.interval)


def test_excluded_rows_are_counted_with_their_reason(tmp_path: Path) -> None:
    features = values()
    labels: list[str | None] = [*LABELS]
    labels[30] = None
    valid = np.ones((NUM, 4), bool)
    valid[31] = False
    splits: list[Any] = [*SPLITS]
    splits[39] = "val"
    store = make_store(
        tmp_path, crops="c", feature_set="x3d_xs", labels=labels, splits=splits, values=features, valid=valid,  # type: ignore[arg-type]
        statuses={2: "unreadable", 31: "non_finite"},
    )  # fmt: skip
    report = measure(store, recipe())
    coverage = report.coverage[0]
    assert coverage.excluded_train == {"unreadable": 1}
    assert coverage.excluded_test == {"no label": 1, "non_finite": 1}
    assert (coverage.used_train, coverage.used_test, coverage.not_in_split) == (23, 13, 1)
    result = report.results[0]
    assert (result.used, result.excluded) == (13, 2)
    assert result.top1_excluded_wrong == pytest.approx(result.top1 * 13 / 15)


def test_a_class_missing_from_train_stays_in_and_counts_as_wrong(tmp_path: Path) -> None:
    labels = [*LABELS[:38], "jump", "jump"]
    report = measure(store_at(tmp_path, labels=labels, values=values(labels)), recipe(KNN, LINEAR))
    for result in report.results:
        assert result.num_test_unseen == 2
        assert result.top1 <= 14 / 16
    headline = next(r for r in report.results if r.is_headline)
    assert [c.num_train for c in headline.per_class if c.label == "jump"] == [0]


def test_one_class(tmp_path: Path) -> None:
    report = measure(store_at(tmp_path, labels=["run"] * NUM), recipe(KNN, LINEAR))
    assert all(result.top1 == 1.0 for result in report.results)


def test_predictions_of_every_test_row_are_kept(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    report = measure(store, recipe())
    table = pq.read_table(io.BytesIO(store.dataset("toy").artifact("reports", "toy-run").read(PREDICTIONS_FILE)))
    of_first = [line for line in table.to_pylist() if line["result"] == report.results[0].id]
    assert len(of_first) == 16
    assert np.mean([line["correct"] for line in of_first]) == report.results[0].top1
    assert all((line["predicted"] in line["labels"]) == line["correct"] for line in of_first)


def test_near_duplicates_are_found_and_can_be_left_out(tmp_path: Path) -> None:
    features = values()
    features[24] = features[0]
    store = store_at(tmp_path, values=features, groups=[f"g{i}" for i in [*range(24), 5, *range(25, NUM)]])
    events: list[Event] = []
    report = measure(store, recipe({**KNN, "leak_threshold": 0.9999}), events)
    leak = report.leaks[0]
    assert (leak.num_near, leak.num_shared_groups, leak.num_same_file) == (1, 1, 0)
    assert (leak.pairs[0].test_row, leak.pairs[0].train_row) == (24, 0)
    assert report.results[0].used == 16
    assert any(isinstance(e, Note) and "near-duplicate" in e.text for e in events)
    stricter = measure(store, recipe({**KNN, "leak_threshold": 0.9999, "exclude_leaks": True}))
    assert stricter.results[0].used == 15
    assert stricter.coverage[0].excluded_test == {"near-duplicate of a train video": 1}


def test_embeddings_that_are_not_there_are_named_and_the_rest_is_measured(tmp_path: Path) -> None:
    report = measure(store_at(tmp_path), recipe(embed=True))
    assert {r.readout for r in report.results} == {"mean"}
    assert any("scale embed" in line for line in report.warnings)


def test_labels_that_are_code_are_labels(tmp_path: Path) -> None:
    labels = ["<script>alert(1)</script>", "'; DROP TABLE videos;-- \u202e"] * (NUM // 2)
    report = measure(store_at(tmp_path, labels=labels, values=values(labels)), recipe(KNN, LINEAR))
    assert set(report.classes) == set(labels)
    assert all(result.top1 == 1.0 for result in report.results if result.probe == "linear")


def test_rows_without_any_label_among_many_labels_are_excluded_and_counted(tmp_path: Path) -> None:
    import pyarrow as pa

    from tests.support.stores import fill, video_table

    store = FeatureStore.create(tmp_path)
    ds = store.create_dataset("toy", shard_rows=8)
    table = video_table(NUM, splits=SPLITS)
    many = [[], None, ["run", "walk"], ["walk"], [""], ["run", "run"], [None, "run"], ["walk"]] * (NUM // 8)
    at = table.column_names.index("labels")
    ds.append_videos(table.set_column(at, "labels", pa.array(many, pa.list_(pa.string()))))
    ds.define_crop_set("c", recipe().crops["c"])
    fill(store, "toy", "c", "x3d_xs", 12, values=values())
    report = measure(store, recipe(KNN, LINEAR, {**LINEAR, "kind": "attentive"}))
    assert report.classes == ("run", "walk")
    assert report.coverage[0].excluded_test == {"no label": 6}
    assert all((result.used, result.excluded, result.is_multilabel) == (10, 6, True) for result in report.results)


def test_one_video_a_side_is_a_number_with_an_interval_that_says_so(tmp_path: Path) -> None:
    pair = {"labels": ["run", "walk"], "splits": ["train", "test"], "values": values(["run", "walk"])}
    report = measure(store_at(tmp_path, **pair), recipe(KNN, LINEAR, {"kind": "retrieval", "crops": "c"}))
    assert all(result.interval[1] - result.interval[0] > 0.9 for result in report.results)
    assert all(r.said("chosen_on").startswith("nothing was chosen") for r in report.results)


@pytest.mark.parametrize("level", [0.0, 1.0, 6e4])
def test_features_that_say_nothing_score_chance(tmp_path: Path, level: float) -> None:
    store = store_at(tmp_path, values=np.full((NUM, 4, 12), level, np.float32))
    report = measure(store, recipe(KNN, LINEAR, {**LINEAR, "kind": "attentive"}, {"kind": "retrieval", "crops": "c"}))
    assert all(result.top1 == 0.5 for result in report.results)


def test_more_neighbours_than_anyone_has(tmp_path: Path) -> None:
    report = measure(
        store_at(tmp_path), recipe({**KNN, "k": [10**30]}, {"kind": "retrieval", "crops": "c", "k": [10**9]})
    )
    asked = next(r for r in report.results if r.said("k") == 10**30)
    assert asked.found.k_used == 24
    assert "the gallery has 24" in asked.notes[0]


class TestClearErrors:
    @pytest.mark.parametrize(
        ("probe", "value"),
        [("temperature", float("inf")), ("temperature", float("nan")), ("k", [0]), ("seed", -1), ("seed", 2**62)],
    )
    def test_numbers_that_no_probe_can_use_are_refused_by_the_recipe(self, probe: str, value: Any) -> None:
        with pytest.raises(RecipeError, match=probe):
            recipe({**KNN, probe: value})

    def test_a_rate_that_is_no_number(self) -> None:
        for value in (float("inf"), float("nan"), 0.0):
            with pytest.raises(RecipeError, match="learning_rates"):
                recipe({**LINEAR, "learning_rates": [value]})

    def test_the_largest_seed_works(self, tmp_path: Path) -> None:
        report = measure(
            store_at(tmp_path), recipe({**LINEAR, "seed": 2**32 - 1, "readouts": ["mean"], "num_seeds": 2})
        )
        assert {result.seed for result in report.results} == {2**32 - 1, 2**32}

    def test_not_a_single_crop_is_valid(self, tmp_path: Path) -> None:
        with pytest.raises(NoDataError, match=r"0 train and 0 test.*no valid crop"):
            measure(store_at(tmp_path, valid=np.zeros((NUM, 4), bool)), recipe())

    def test_a_split_nobody_knows(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match=r"split '7'.*\['1'\]"):
            measure(store_at(tmp_path), recipe({**KNN, "split": "7"}))

    def test_an_empty_side(self, tmp_path: Path) -> None:
        with pytest.raises(NoDataError, match="40 train, 0 test"):
            measure(store_at(tmp_path, splits=["train"] * NUM), recipe())

    def test_no_usable_row_on_a_side(self, tmp_path: Path) -> None:
        labels: Any = [*LABELS[:24], *[None] * 16]
        with pytest.raises(NoDataError, match=r"24 train and 0 test.*no label"):
            measure(store_at(tmp_path, labels=labels), recipe())

    def test_no_features(self, tmp_path: Path) -> None:
        wanted = recipe(crops={"c": {"policy": "random"}, "d": {"policy": "random"}})
        other = wanted.model_copy(update={"probes": (wanted.probes[0].model_copy(update={"crops": "d"}),)})
        store = store_at(tmp_path)
        assert plan_probe(other, store, Settings()).table()[0]["videos"] == "unknown"
        with pytest.raises(NotFoundError, match="scale extract"):
            measure(store, other)

    def test_an_empty_store_can_be_planned_but_not_measured(self, tmp_path: Path) -> None:
        store = FeatureStore.create(tmp_path)
        plan = plan_probe(recipe(), store, Settings())
        assert "unknown until extract has run" in plan.summary()
        with pytest.raises(NotFoundError, match="scale catalog"):
            run_probe(plan, store, Settings())

    def test_a_report_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="none"):
            read_report(store_at(tmp_path).dataset("toy"), "other")


def test_several_labels_give_mean_average_precision(tmp_path: Path) -> None:
    import pyarrow as pa

    from tests.support.stores import fill, video_table

    store = FeatureStore.create(tmp_path)
    ds = store.create_dataset("toy", shard_rows=8)
    table = video_table(NUM, labels=LABELS, splits=SPLITS)
    many = [[label, "outdoors"] if i % 3 == 0 else [label] for i, label in enumerate(LABELS)]
    at = table.column_names.index("labels")
    ds.append_videos(table.set_column(at, "labels", pa.array(many, pa.list_(pa.string()))))
    ds.define_crop_set("c", recipe().crops["c"])
    fill(store, "toy", "c", "x3d_xs", 12, values=values())
    assert read_split(store.dataset("toy"), "1").is_multilabel
    report = measure(store, recipe(KNN, LINEAR))
    assert report.classes == ("outdoors", "run", "walk")
    for result in report.results:
        assert result.is_multilabel
        assert result.mean_average_precision is not None
        assert 0 < result.mean_average_precision <= 1
        assert result.confusion is None


def test_val_is_measured_where_test_is_secret_and_every_result_says_so(tmp_path: Path) -> None:
    sides = ["train"] * 24 + ["val"] * 10 + ["test"] * 6
    store = store_at(tmp_path, splits=sides)
    report = measure(store, recipe(KNN | {"side": "val"}, KNN, LINEAR | {"side": "val"}))
    used = {(r.probe, r.split): r.used for r in report.results}
    assert used == {("knn", "1/val"): 10, ("knn", "1"): 6, ("linear", "1/val"): 10}
    assert all("1/val" in r.id for r in report.results if r.used == 10)
    only_val = store_at(tmp_path / "other", splits=["train"] * 24 + ["val"] * 16)
    with pytest.raises(NoDataError, match="`side: val` measures on val"):
        measure(only_val, recipe(KNN))


def test_only_networks_that_could_learn_are_called_untrained(tmp_path: Path) -> None:
    more = {"moves": {"kind": "motion"}}
    wanted = recipe({**KNN, "backbone": "x3d_xs"})
    content = wanted.model_dump(mode="json", by_alias=True, exclude_none=True)
    content["backbones"] |= more
    lines = measure(store_at(tmp_path), parse_recipe(content)).warnings
    assert [line for line in lines if "untrained" in line] == ["backbone x3d_xs is untrained (random weights, seed 3)"]


def test_a_report_is_written_from_a_folder_of_source_that_nobody_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_installed(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing_installed)
    assert stage._versions()["scale-pipeline"] == "unknown"
