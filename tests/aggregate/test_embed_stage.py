"""The stage `embed` on a store: what the tensors give, written back shard by shard, only what is stale."""

from __future__ import annotations

import numpy as np
import torch

import aggregate
from aggregate.network.saving import load_model
from aggregate.stage import plan_embed, plan_train, run_embed, run_train
from pipeline.events import Note
from pipeline.storage.schema import PENDING
from pipeline.verify.verify_store import verify_store
from tests.support.stores import fill, video_table
from tests.support.toy_training import HERE, recipe, run_all, toy


def test_what_is_stored_is_what_the_tensors_give(tmp_path):
    store, chosen = toy(tmp_path), recipe()
    run_all(store, chosen)
    ds = store.dataset("toy")
    block = ds.select().features("train16", "fake")
    model = load_model(ds, "scale")
    expected, _ = aggregate.embed(model, np.array(block.values), np.array(block.geometry), np.array(block.valid))
    found = ds.select().embeddings("scale")
    np.testing.assert_allclose(found.values, expected.numpy(), atol=1e-6)
    assert found.valid.all()
    direct = aggregate.train(
        *(np.array(a)[:16] for a in (block.values, block.geometry, block.valid)), spec=chosen.train, device="cpu"
    )
    for name, value in direct.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_another_width_replaces_the_embeddings(tmp_path):
    store = toy(tmp_path)
    run_all(store, recipe())
    run_all(store, recipe(embeds=[{"crops": "train16", "readout": "joined"}]))
    assert store.dataset("toy").select().embeddings("scale").values.shape == (24, 24)


def test_new_videos_train_again_and_retried_features_embed_again(tmp_path):
    store, chosen = toy(tmp_path, statuses={20: "unreadable"}), recipe(rows="all")
    run_all(store, chosen)
    status = store.dataset("toy").embedding_status("scale").to_pylist()[20]
    assert (status["status"], status["error"]) == ("unreadable", "made unreadable")
    assert not store.dataset("toy").select(rows=[20]).embeddings("scale").valid[0]
    store.dataset("toy").append_videos(video_table(4, first=24, splits=["train"] * 4))
    fill(store, dim=8)
    assert plan_train(chosen, store, HERE).standings[0].why == "features train16/fake changed"
    trained, embedded = run_all(store, chosen)
    assert (trained.did["models_trained"], embedded.did["shards_done"]) == (1, 4)
    # Only embed again after a retry: the model of before serves, and the one shard that changed is done.
    fill(store, dim=8, retry=["unreadable"])
    notes = []
    report = run_embed(plan_embed(chosen, store, HERE), store, HERE, notes.append)
    assert report.did == {"shards_done": 1, "shards_skipped": 3}
    assert store.dataset("toy").select(rows=[20]).embeddings("scale").valid[0]
    assert any(isinstance(n, Note) and "not what the recipe would train now" in n.text for n in notes)


def test_rows_without_features_wait_and_are_done_later(tmp_path):
    store, chosen = toy(tmp_path), recipe()
    run_all(store, chosen)
    store.dataset("toy").append_videos(video_table(4, first=24, splits=["test"] * 4))
    assert plan_embed(chosen, store, HERE).standings[0].why == "follows model scale"
    report = run_embed(plan_embed(chosen, store, HERE), store, HERE)
    assert report.did["shards_done"] == 0
    assert store.dataset("toy").embedding_status("scale")["status"].to_pylist()[24:] == [PENDING] * 4


def test_whitened_embeddings_are_fitted_on_training_rows_and_stay_put(tmp_path):
    store = toy(tmp_path)
    chosen = recipe(embeds=[{"crops": "train16", "name": "white", "readout": "whitened", "sets": 2}])
    run_all(store, chosen)
    ds = store.dataset("toy")
    values = ds.select(rows=range(16)).embeddings("white").values
    np.testing.assert_allclose(values.mean(0), 0.0, atol=1e-4)
    before = ds.select().embeddings("white").values.copy()
    fill(store, dim=8, statuses={23: "unreadable"}, retry=["ok"], salt=0)
    run_embed(plan_embed(chosen, store, HERE), store, HERE)
    again = store.dataset("toy").select(rows=range(23)).embeddings("white").values
    np.testing.assert_allclose(again, before[:23], atol=1e-6)


def test_two_runs_at_once_share_the_shards(tmp_path):
    store, chosen = toy(tmp_path), recipe()
    run_train(plan_train(chosen, store, HERE), store, HERE)
    plan = plan_embed(chosen, store, HERE)
    second = []

    def overtake(event) -> None:
        if type(event).__name__ == "ShardFinished" and not second:
            second.append(None)
            second[0] = run_embed(plan_embed(chosen, store, HERE), store, HERE).did

    first = run_embed(plan, store, HERE, overtake).did
    assert first == {"shards_done": 1, "shards_skipped": 2}
    assert second[0] == {"shards_done": 2, "shards_skipped": 1}
    assert store.dataset("toy").select().embeddings("scale").valid.all()


def test_embeddings_that_a_repair_dropped_are_made_again(tmp_path):
    store, chosen = toy(tmp_path), recipe()
    run_all(store, chosen)
    before = np.array(store.dataset("toy").select().embeddings("scale").values)
    shard = sorted(tmp_path.rglob("embeddings/scale/values/c.0.0"))[0]
    damaged = bytearray(shard.read_bytes())
    damaged[5] ^= 16
    shard.write_bytes(damaged)
    assert verify_store(store, repair=True).is_clean
    assert not store.dataset("toy").select().embeddings("scale").valid.all()
    assert not plan_embed(chosen, store, HERE).is_empty
    assert run_embed(plan_embed(chosen, store, HERE), store, HERE).did["shards_done"] == 1
    after = store.dataset("toy").select().embeddings("scale")
    np.testing.assert_array_equal(after.values, before)
    assert after.valid.all()
    assert plan_embed(chosen, store, HERE).is_empty
