"""The stage `train` on a store: only what is missing, honest about what is not known yet."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aggregate.network.saving import CONFIG, METRICS, WEIGHTS, decode_model, load_model
from aggregate.stage import plan_embed, plan_train, run_embed, run_train
from aggregate.training.stage import training_folder
from pipeline import FeatureStore
from pipeline.errors import CorruptDataError, NotFoundError, TrainingError
from pipeline.events import Note, Progress
from pipeline.products.model import TRAINING_VERSION
from pipeline.settings import Settings
from pipeline.stage import StagePlan
from tests.support.toy_training import HERE, recipe, run_all, toy


def test_first_everything_then_nothing(tmp_path):
    store, chosen = toy(tmp_path), recipe()
    for plan in (plan_train(chosen, store, HERE), plan_embed(chosen, store, HERE)):
        as_protocol: StagePlan = plan
        assert not as_protocol.is_empty
        assert list(as_protocol.table()[0])[-1] == "why"
    trained, embedded = run_all(store, chosen)
    assert trained.did == {"models_trained": 1, "models_skipped": 0, "steps": 8}
    assert embedded.did == {"shards_done": 3, "shards_skipped": 0}
    for plan in (plan_train(chosen, store, HERE), plan_embed(chosen, store, HERE)):
        assert plan.is_empty
        assert "nothing to do" in plan.summary()
    trained, embedded = run_all(store, chosen)
    assert trained.did == {"models_trained": 0, "models_skipped": 1, "steps": 0}
    assert embedded.did == {"shards_done": 0, "shards_skipped": 3}
    assert not (tmp_path / "store" / ".training").exists()
    assert store.datasets() == ["toy"]


def test_the_model_says_where_it_came_from(tmp_path):
    store, chosen = toy(tmp_path), recipe()
    report, _ = run_all(store, chosen)
    ds = store.dataset("toy")
    artifact = ds.artifact("models", "scale")
    assert artifact.meta["fingerprint"] == report.fingerprint == plan_train(chosen, store, HERE).fingerprint
    assert artifact.meta["snapshot"] == ds.snapshot(crops="train16", feature_set="fake")
    assert artifact.meta["config"]["epochs"] == 4
    assert (artifact.meta["rows"], artifact.meta["split"], artifact.meta["num_videos"]) == ("train", "1", 16)
    assert json.loads(artifact.read(CONFIG))["input_dim"] == 8
    assert len(artifact.read(METRICS).splitlines()) == 8
    info = ds.embedding_info("scale")
    assert info.fingerprint["model"]["weights_sha256"] == artifact.meta["weights_sha256"]
    assert info.attrs["rows"] == "train"


def test_only_what_changes_the_numbers_trains_again(tmp_path):
    store = toy(tmp_path)
    run_all(store, recipe())
    assert plan_train(recipe(checkpoint_epochs=1, compile="off"), store, HERE).is_empty
    changed = recipe(seed=3)
    plan = plan_train(changed, store, HERE)
    assert (plan.is_empty, plan.standings[0].why) == (False, "train.seed 0 → 3")
    assert plan_embed(changed, store, HERE).standings[0].why == "follows model scale"
    before = store.dataset("toy").select().embeddings("scale").values.copy()
    trained, embedded = run_all(store, changed)
    assert trained.did["models_trained"] == 1
    assert embedded.did == {"shards_done": 3, "shards_skipped": 0}
    after = store.dataset("toy").select().embeddings("scale")
    assert after.valid.all()
    assert not np.allclose(after.values, before)
    assert plan_train(changed, store, HERE, force=True).standings[0].why == "asked to make it again"
    run_train(plan_train(changed, store, HERE, force=True), store, HERE)
    assert plan_embed(changed, store, HERE).is_empty  # the same model again: its embeddings stand


def test_an_empty_store_gives_an_honest_plan(tmp_path):
    store, chosen = FeatureStore.create(tmp_path / "empty"), recipe()
    for plan in (plan_train(chosen, store, HERE), plan_embed(chosen, store, HERE)):
        assert not plan.is_empty
        assert "unknown until extract has run" in plan.summary()
        assert plan.table()[0]["why"] == "unknown until extract has run"
        assert plan.fingerprint is not None
    with pytest.raises(NotFoundError, match=r"run extract first|expected a dataset"):
        run_train(plan_train(chosen, store, HERE), store, HERE)
    store.create_dataset("toy", shard_rows=8)
    assert "unknown until extract" in plan_train(chosen, store, HERE).summary()
    with pytest.raises(NotFoundError, match="run extract first"):
        run_train(plan_train(chosen, store, HERE), store, HERE)
    with pytest.raises(NotFoundError, match="run the stages before it first"):
        run_embed(plan_embed(chosen, store, HERE), store, HERE)


def test_a_plan_made_before_extraction_is_made_again(tmp_path):
    chosen = recipe()
    early = FeatureStore.create(tmp_path / "store")
    plans = plan_train(chosen, early, HERE), plan_embed(chosen, early, HERE)
    store = toy(tmp_path)
    assert run_train(plans[0], store, HERE).did["models_trained"] == 1
    assert run_embed(plans[1], store, HERE).did["shards_done"] == 3


def test_a_recipe_without_training_has_nothing_to_do(tmp_path):
    store = toy(tmp_path)
    chosen = recipe().model_copy(update={"train": None, "embed": ()})
    assert plan_train(chosen, store, HERE).is_empty
    assert run_train(plan_train(chosen, store, HERE), store, HERE).did["models_trained"] == 0
    assert plan_embed(chosen, store, HERE).is_empty
    assert run_embed(plan_embed(chosen, store, HERE), store, HERE).did["shards_done"] == 0


class Killed(BaseException):
    """The process is gone."""


def test_a_training_that_was_killed_goes_on_from_its_checkpoint(tmp_path):
    here, chosen = Settings(device="cpu", progress_s=0), recipe(checkpoint_epochs=1)
    whole = toy(tmp_path / "whole")
    run_train(plan_train(chosen, whole, HERE), whole, HERE)
    store = toy(tmp_path)

    def die(event) -> None:
        if isinstance(event, Progress) and event.done == 5:
            raise Killed

    with pytest.raises(Killed):
        run_train(plan_train(chosen, store, here), store, here, die)
    folder = training_folder(store, HERE, plan_train(chosen, store, HERE).standings[0])
    assert sorted(p.name for p in folder.glob("step-*"))[-1] == "step-000000004"
    report = run_train(plan_train(chosen, store, HERE), store, HERE)
    assert report.details["resumed_from"] == 4
    models = [s.dataset("toy").artifact("models", "scale") for s in (whole, store)]
    assert models[0].read(WEIGHTS) == models[1].read(WEIGHTS)
    assert models[0].read(METRICS) == models[1].read(METRICS)
    assert not folder.exists()


def test_two_processes_do_not_train_the_same_model_at_once(tmp_path):
    """The second waits for the lock, then finds the model there."""
    import threading

    store, chosen = toy(tmp_path), recipe()
    plan = plan_train(chosen, store, HERE)
    waiting, reports, notes = threading.Event(), {}, []

    def note(event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)
            waiting.set()

    def train_second() -> None:
        reports["second"] = run_train(plan, FeatureStore.open(tmp_path / "store", mode="a"), HERE, note)

    second = threading.Thread(target=train_second)

    def start_second(event) -> None:
        if not second.ident:
            second.start()
            assert waiting.wait(30)

    first = run_train(plan, store, HERE, start_second)
    second.join(30)
    assert first.did["models_trained"] == 1
    assert reports["second"].did == {"models_trained": 0, "models_skipped": 1, "steps": 0}
    assert notes == ["another process is training model scale; waiting for it"]


def test_broken_features_stop_training_and_leave_no_model(tmp_path):
    values = np.random.default_rng(0).standard_normal((24, 4, 8)).astype(np.float32)
    store, chosen = toy(tmp_path, values=values, dtype="float32"), recipe()

    class Poisoned:
        """What a reader without checks would hand out."""

        def __init__(self, block) -> None:
            self.values, self.geometry, self.valid, self.rows = (
                np.array(block.values),
                block.geometry,
                block.valid,
                block.rows,
            )
            self.values[5, 0, 0] = np.nan

    import pipeline.store.selection

    original = pipeline.store.selection.Selection.features
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.store.selection.Selection, "features", lambda self, *a: Poisoned(original(self, *a)))
        with pytest.raises(TrainingError, match=r"rows 5\)"):
            run_train(plan_train(chosen, store, HERE), store, HERE)
    assert store.dataset("toy").artifacts("models") == []


def test_a_damaged_model_is_refused(tmp_path):
    store, chosen = toy(tmp_path), recipe()
    run_all(store, chosen)
    artifact = store.dataset("toy").artifact("models", "scale")
    path = artifact.local_path(WEIGHTS)
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(CorruptDataError, match="make it again"):
        load_model(store.dataset("toy"), "scale")
    for config, weights in (
        (b"{}", good), (b"[", good), (artifact.read(CONFIG), good[:50]), (artifact.read(CONFIG), b""),
        (artifact.read(CONFIG).replace(b'"dim": 16', b'"dim": 32'), good),
    ):  # fmt: skip
        with pytest.raises(CorruptDataError, match="expected a saved SCALE model"):
            decode_model(config, weights)


def test_a_moving_average_is_what_is_used_and_both_are_kept(tmp_path):
    store, chosen = toy(tmp_path), recipe(ema=0.9)
    run_all(store, chosen)
    artifact = store.dataset("toy").artifact("models", "scale")
    assert "online.safetensors" in artifact.files
    assert artifact.read("online.safetensors") != artifact.read(WEIGHTS)


def test_remote_stores_keep_trainings_in_the_cache_folder(tmp_path):
    store, chosen = toy(tmp_path), recipe()

    class Remote:
        url = "s3://bucket/store"

        class backend:
            @staticmethod
            def local_path(key):
                return None

    plan = plan_train(chosen, store, HERE)
    folder = training_folder(Remote, Settings(cache=tmp_path / "cache"), plan.standings[0])
    assert folder.is_relative_to(tmp_path / "cache" / "training")
    assert TRAINING_VERSION == 1
