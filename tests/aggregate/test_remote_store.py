"""Training and embedding from an object store (a real S3 API on loopback) equal a local run to the last bit."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
import torch

from aggregate.data.rows import make_source
from aggregate.network.saving import METRICS, WEIGHTS
from aggregate.stage import plan_embed, plan_train, run_train
from aggregate.training.stage import training_folder
from pipeline import FeatureStore
from pipeline.events import Progress
from pipeline.settings import Settings
from tests.support.s3 import S3Server
from tests.support.toy_training import recipe, run_all, toy

EMBEDS = ({"crops": "train16"}, {"crops": "train16", "name": "white", "readout": "whitened"})


@pytest.fixture
def no_room(monkeypatch):
    """Neither the device nor the host holds the selection: shards come in blocks, from the store, every epoch."""
    monkeypatch.setenv("SCALE_RESIDENT_BYTES", "1000")
    monkeypatch.setattr("pipeline.sets.batches._memory_bytes", lambda: 1000)


@pytest.fixture
def remote(s3: S3Server) -> str:
    return f"s3://features/{uuid.uuid4().hex}"


def both(tmp_path, remote: str) -> tuple[FeatureStore, FeatureStore]:
    return toy(tmp_path / "local"), toy(remote)


def settings(tmp_path, **more) -> Settings:
    return Settings(device="cpu", cache=tmp_path / "cache", **more)


def what_is_left(store: FeatureStore) -> tuple[bytes, bytes, list[np.ndarray]]:
    ds = store.dataset("toy")
    model = ds.artifact("models", "scale")
    return model.read(WEIGHTS), model.read(METRICS), [ds.select().embeddings(n).values for n in ("scale", "white")]


@pytest.mark.parametrize("streamed", [False, True])
def test_remote_equals_local(tmp_path, remote, request, streamed):
    if streamed:
        request.getfixturevalue("no_room")
    chosen, found = recipe(embeds=EMBEDS), []
    for store in both(tmp_path, remote):
        source = make_source(
            store.dataset("toy"),
            np.arange(16),
            chosen.train,
            torch.device("cpu"),
            resident_bytes=1000 if streamed else None,
        )
        assert type(source).__name__ == ("StreamSource" if streamed else "ResidentSource")
        trained, embedded = run_all(store, chosen, settings=settings(tmp_path))
        assert trained.did == {"models_trained": 1, "models_skipped": 0, "steps": 8}
        assert embedded.did == {"shards_done": 6, "shards_skipped": 0}
        found.append(what_is_left(store))
        assert plan_train(chosen, store, settings(tmp_path)).is_empty
        assert plan_embed(chosen, store, settings(tmp_path)).is_empty
    (weights, metrics, embeddings), (remote_weights, remote_metrics, remote_embeddings) = found
    assert weights == remote_weights
    assert metrics == remote_metrics
    for a, b in zip(embeddings, remote_embeddings, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not (tmp_path / "cache" / "training").exists() or not list((tmp_path / "cache" / "training").rglob("step-*"))


class Killed(BaseException):
    """The process is gone."""


def test_a_streamed_training_from_a_remote_store_resumes_in_the_middle_of_an_epoch(tmp_path, remote, no_room):
    chosen, here = recipe(batch_size=4, ema=0.9), settings(tmp_path, progress_s=0, checkpoint_s=0)
    local, far = both(tmp_path, remote)
    run_train(plan_train(chosen, local, here), local, here)

    def die(event) -> None:
        if isinstance(event, Progress) and event.done == 7:  # four steps an epoch
            raise Killed

    with pytest.raises(Killed):
        run_train(plan_train(chosen, far, here), far, here, die)
    folder = training_folder(far, here, plan_train(chosen, far, here).standings[0])
    assert folder.is_relative_to(tmp_path / "cache")
    report = run_train(plan_train(chosen, far, here), far, here)
    assert report.details["resumed_from"] == 6
    models = [s.dataset("toy").artifact("models", "scale") for s in (local, far)]
    assert models[0].read(WEIGHTS) == models[1].read(WEIGHTS)
    assert not folder.exists()


def test_batches_that_were_done_are_not_read_again(tmp_path, remote, no_room, monkeypatch):
    store, spec = toy(remote), recipe(batch_size=4).train
    source = make_source(store.dataset("toy"), np.arange(16), spec, torch.device("cpu"), resident_bytes=1000)
    asked = []
    from pipeline.store.selection import Selection

    original = Selection.batches

    def listen(self, *args, **options):
        for block in original(self, *args, **options):
            asked.append(block.rows.tolist())
            yield block

    monkeypatch.setattr(Selection, "batches", listen)
    whole = [b.video_ids.tolist() for b in source.batches(1, 4)]
    asked.clear()
    assert [b.video_ids.tolist() for b in source.batches(1, 4, skip=3)] == whole[3:]
    assert asked == whole[3:]
