"""Several streams trained from one store, embeddings without a model, and what is said of a training that failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aggregate import train
from aggregate.data import rows
from aggregate.data.rows import geometry_digest
from aggregate.network.saving import load_model
from aggregate.stage import plan_embed, plan_train, run_embed
from aggregate.training.verdict import doubts_about_training
from pipeline import FeatureStore
from pipeline.errors import InvalidInputError, RecipeError
from pipeline.events import Event, Note
from pipeline.readouts.collapse import doubts_about_vectors
from pipeline.readouts.fitting import fit_readout, read_parts
from pipeline.recipe import Recipe, parse_recipe
from pipeline.recipe.training import MovingCrops
from pipeline.settings import Settings
from tests.support.set_batches import raw_geometry
from tests.support.stores import fill, video_table
from tests.support.toy_training import HERE, SMALL, run_all, toy

RGB, MOTION = "c/fake", "c/fake-tgrad"
BOTH = {"of": [{"crops": "c", "backbone": "fake"}, {"crops": "c", "backbone": "fake-tgrad", "take": ["mean"]}]}


def recipe(**more: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": "toy",
        "dataset": {"name": "toy", "videos": "*.mp4"},
        "crops": {"c": {"policy": "random", "num_crops": 4}},
        "backbones": {
            "fake": {
                "kind": "pytorchvideo",
                "model": "x3d_xs",
                "weights": {"random": 0},
                "streams": ["rgb", "tgrad"],
            }
        },
        **more,
    }
    return parse_recipe(content)


def two_streams(folder: Path) -> FeatureStore:
    store = toy(folder, crops="c")
    fill(store, crops="c", feature_set="fake-tgrad", dim=5, salt=9)
    return store


def trained_on(*features: str, **train: Any) -> Recipe:
    options = {"epochs": 3, "batch_size": 8, "set_size": 2, "model": SMALL, **train}
    return recipe(models={"m": {"features": list(features), **options}}, embed=[{"features": features[:1]}])


def weights(store: FeatureStore) -> dict[str, torch.Tensor]:
    ds = store.dataset("toy")
    return {f"{i}.{k}": v for i in (0, 1) for k, v in load_model(ds, "m", i).state_dict().items()}


def test_two_streams_are_trained_resident_and_streamed_alike(tmp_path: Path) -> None:
    chosen = trained_on(RGB, MOTION, method="maclr")
    resident, streamed = two_streams(tmp_path / "a"), two_streams(tmp_path / "b")
    run_all(resident, chosen)
    run_all(streamed, chosen, settings=Settings(device="cpu", resident_bytes=0))
    ours, theirs = weights(resident), weights(streamed)
    assert ours["0.input_projection.weight"].shape[1] == 8
    assert ours["1.input_projection.weight"].shape[1] == 5
    torch.testing.assert_close(ours["1.input_mean"], theirs["1.input_mean"], rtol=1e-6, atol=1e-7)
    assert resident.dataset("toy").select().embeddings("m").values.shape == (24, 16)
    # Each stream's features are read by the network that was trained on them.
    other = recipe(models={"m": chosen.models["m"].model_dump(mode="json", exclude={"crops", "backbone"})},
                   embed=[{"name": "motion", "features": [MOTION]}])  # fmt: skip
    run_embed(plan_embed(other, resident, HERE), resident, HERE)
    assert resident.dataset("toy").select().embeddings("motion-m").valid.all()


def test_streams_of_other_boxes_are_told_apart(tmp_path: Path) -> None:
    ds = two_streams(tmp_path).dataset("toy")
    first, second = (ds.select().features("c", name) for name in ("fake", "fake-tgrad"))
    assert geometry_digest(first, first.valid) == geometry_digest(second, second.valid)
    moved = np.array(second.geometry)
    moved[3, 1, 0] += 0.5
    other = replace(second, geometry=moved)
    assert geometry_digest(first, first.valid) != geometry_digest(other, second.valid)


def test_a_system_says_how_many_streams_it_takes() -> None:
    with pytest.raises(RecipeError, match=r"vicreg takes 1 feature set"):
        trained_on(RGB, MOTION, method="vicreg")


@pytest.mark.parametrize("project", ["none", "whitened", "vicreg"])
def test_embeddings_without_a_model(tmp_path: Path, project: str) -> None:
    store = two_streams(tmp_path)
    readouts = {"both": {**BOTH, "project": project, "strength": 3, "outputs": 6}}
    chosen = recipe(readouts=readouts, embed=[{"name": "pair", "crops": "c", "readout": "both"}])
    report = run_embed(plan_embed(chosen, store, HERE), store, HERE)
    assert report.did["shards_done"] == 3
    ds = store.dataset("toy")
    spec = chosen.readouts["both"]
    parts, _ = read_parts(ds, spec, np.arange(24))
    views = tuple([p[:16] for p in read_parts(ds, spec, np.arange(24), half=h)[0]] for h in (0, 1))
    fitted = fit_readout([p[:16] for p in parts], spec, views=views)  # the training rows alone
    np.testing.assert_allclose(ds.select().embeddings("pair").values, fitted(parts), atol=1e-6)
    assert plan_embed(chosen, store, HERE).is_empty
    other = recipe(readouts={"both": {**readouts["both"], "cosines": 1}}, embed=chosen.model_dump()["embed"])
    assert not plan_embed(other, store, HERE).is_empty


def test_later_videos_are_read_as_those_before_them(tmp_path: Path) -> None:
    store = two_streams(tmp_path)
    chosen = recipe(embed=[{"crops": "c", "backbone": "fake", "readout": "moments"}])
    run_embed(plan_embed(chosen, store, HERE), store, HERE)
    before = np.array(store.dataset("toy").select().embeddings("moments").values)
    store.dataset("toy").append_videos(video_table(4, first=24, splits=["train"] * 4))
    fill(store, crops="c", dim=8)
    assert run_embed(plan_embed(chosen, store, HERE), store, HERE).did["shards_done"] == 1
    after = store.dataset("toy").select().embeddings("moments").values
    np.testing.assert_array_equal(after[:24], before)
    assert len(after) == 28


def test_nothing_learned_is_said(tmp_path: Path) -> None:
    """Features that are one offset but for a breath: as the released code reads them, the loss stays at chance."""
    constant = (0.086 + 0.0037 * np.random.default_rng(0).standard_normal((24, 4, 8))).astype(np.float32)
    store = toy(tmp_path, values=constant, dtype="float32")
    content = {
        "crops": {"train16": {"policy": "random", "num_crops": 4}},
        "train": {"crops": "train16", "backbone": "fake", "epochs": 4, "batch_size": 16, "set_size": 2,
                  "model": SMALL, "normalise": "none", "learning_rate": 1e-9},
        "embed": [{"crops": "train16"}],
    }  # fmt: skip
    events: list[Event] = []
    trained, _ = run_all(store, recipe(**content), events.append, Settings(device="cpu"))
    said = [e.text for e in events if isinstance(e, Note) and "ended at chance" in e.text]
    assert said
    assert trained.details["doubts"]
    assert store.dataset("toy").artifact("models", "scale").meta["doubts"]


def test_a_common_offset_hides_nothing_once_inputs_are_standardised() -> None:
    """The demo's case: offset 0.086, deviation 0.0037; as released the loss stays at chance, standardised it falls."""
    g = torch.Generator().manual_seed(0)
    kinds = torch.randn(48, 1, 16, generator=g)
    x = 0.086 + 0.0037 * (kinds + 0.3 * torch.randn(48, 8, 16, generator=g))
    where = raw_geometry(48, 8, g)
    options: dict[str, Any] = {
        "epochs": 30, "batch_size": 16, "set_size": 4, "learning_rate": 1e-3, "device": "cpu",
        "model": {"dim": 32, "num_heads": 2, "head_hidden_dim": 64, "target_hidden_dim": 32, "dropout": 0.0},
    }  # fmt: skip
    raw = train(x, where, normalise="none", **options)
    assert doubts_about_training(raw.history, raw.chance)
    standardised = train(x, where, **options)
    assert doubts_about_training(standardised.history, standardised.chance) == ()
    assert standardised.history[-1]["loss"] < 0.6 * raw.history[-1]["loss"]


def test_collapsed_vectors_are_told_from_those_with_a_common_part() -> None:
    rng = np.random.default_rng(0)
    same = 1 + 1e-5 * rng.standard_normal((20, 6))
    apart = 1 + 0.05 * rng.standard_normal((20, 6))
    (text,) = doubts_about_vectors(20, same.sum(0), np.square(same).sum(0))
    assert "collapsed" in text
    assert doubts_about_vectors(20, apart.sum(0), np.square(apart).sum(0)) == ()
    assert doubts_about_vectors(1, same[0], same[0] ** 2) == ()


def test_the_crops_that_move_most_are_learned_from(tmp_path: Path) -> None:
    """Resident and streamed alike; others might as well not be there."""
    score = np.random.default_rng(0).random((24, 4, 1)).astype(np.float32)
    store = toy(tmp_path, crops="c")
    fill(store, crops="c", feature_set="fake-tgrad", dim=1, dtype="float32", values=score)
    ds = store.dataset("toy")
    (spec,) = trained_on(RGB, moving={"by": MOTION, "share": 0.5}).models.values()
    place = torch.device("cpu")
    resident = rows.make_source(ds, np.arange(16), spec, place)
    streamed = rows.make_source(ds, np.arange(16), spec, place, resident_bytes=0)
    assert resident.input_dims == streamed.input_dims == (8,)
    for source in (resident, streamed):
        seen = {}
        for batch in source.batches(0, 8):
            seen |= dict(zip(batch.video_ids.tolist(), batch.valid.numpy(), strict=True))
            assert batch.more_features == ()
        for n, own in seen.items():
            best = sorted(range(4), key=lambda v, n=n: -score[n, v, 0])[:2]
            assert np.flatnonzero(own).tolist() == sorted(best)
    run_all(store, trained_on(RGB, moving={"by": MOTION}))
    model = ds.artifact("models", "m")
    assert model.meta["config"]["moving"] == {"by": MOTION, "share": 0.5}
    assert plan_train(trained_on(RGB, moving={"by": MOTION}), store, HERE).is_empty
    assert not plan_train(trained_on(RGB, moving={"by": MOTION, "share": 0.75}), store, HERE).is_empty
    assert not plan_train(trained_on(RGB), store, HERE).is_empty


def test_turned_crops_are_learned_from_and_never_embedded(tmp_path: Path) -> None:
    """Read behind the streams, resident and streamed alike, without a network of their own."""
    store = toy(tmp_path, crops="c")
    for salt, name in ((9, "fake-flow"), (11, "fake-flow_turned")):
        fill(store, crops="c", feature_set=name, dim=5, salt=salt)
    ds = store.dataset("toy")

    def told(**objective: Any) -> Recipe:
        backbone = {"kind": "pytorchvideo", "model": "x3d_xs", "weights": {"random": 0}}
        streams = {"streams": ["rgb", "flow", "flow_turned"]}
        options = {"epochs": 3, "batch_size": 8, "set_size": 2, "model": SMALL, "features": [RGB, "c/fake-flow"]}
        return recipe(
            backbones={"fake": {**backbone, **streams}}, embed=[{"crops": "c"}],
            models={"m": {**options, "objective": {"kind": "mscl", **objective}}},
        )  # fmt: skip

    chosen = told(turned="c/fake-flow_turned")
    (spec,) = chosen.models.values()
    place = torch.device("cpu")
    resident = rows.make_source(ds, np.arange(16), spec, place)
    streamed = rows.make_source(ds, np.arange(16), spec, place, resident_bytes=0)
    assert resident.input_dims == streamed.input_dims == (8, 5, 5)
    stored = ds.select(rows=np.arange(16)).features("c", "fake-flow_turned")
    for source in (resident, streamed):
        batch = next(iter(source.batches(0, 8)))
        found = batch.more_features[1][batch.pool_positions]
        np.testing.assert_array_equal(found.numpy(), stored.values[batch.video_ids.numpy()])
    run_all(store, chosen)
    assert weights(store)["1.input_projection.weight"].shape[1] == 5
    embedded = plan_embed(chosen, store, HERE)
    assert embedded.is_empty
    refs = [str(ref) for one in embedded.standings for ref in one.product.inputs]
    assert refs
    assert not any("turned" in ref for ref in refs)
    assert plan_train(chosen, store, HERE).is_empty
    assert not plan_train(told(), store, HERE).is_empty
    assert "turned" not in told().models["m"].model_dump(mode="json")["objective"]
    with pytest.raises(RecipeError, match="expected features out of"):
        told(turned="c/fake-flow_turn")
    with pytest.raises(RecipeError, match="crop set/feature set"):
        told(turned="fake")


@pytest.mark.parametrize(("share", "wanted"), [(0.01, 1), (0.5, 2), (0.51, 3), (1.0, 4)])
def test_a_share_of_the_valid_crops_moves_most(share: float, wanted: int) -> None:
    score = np.array([[[3.0], [9.0], [1.0], [2.0], [4.0]]] * 2, np.float16)
    valid = np.array([[True, False, True, True, True], [False] * 5])
    kept = rows.most_moving(score, valid, MovingCrops(by=MOTION, share=share))
    assert np.flatnonzero(kept[0]).tolist() == sorted([4, 0, 3, 2][:wanted])
    assert not kept[1].any()


def test_what_is_no_motion_score_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="one channel in c/fake-tgrad, a motion score, found 5"):
        run_all(two_streams(tmp_path), trained_on(RGB, moving={"by": MOTION}))
    with pytest.raises(RecipeError, match="expected features out of"):
        trained_on(RGB, moving={"by": "c/fake-tgrat"})
    with pytest.raises(RecipeError, match="crop set/feature set"):
        trained_on(RGB, moving={"by": "fake"})
