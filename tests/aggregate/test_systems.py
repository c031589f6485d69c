"""The neighbours of SCALE: each equals its slow twin, survives a kill exactly, refuses what would tell the answer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from aggregate import ScaleModel, train
from aggregate.objectives import ObjectiveInput, WeightedSum, build_objective
from aggregate.objectives.pairs_in_time import pair_weights
from aggregate.objectives.relations import box_overlap, overlap_bin, time_overlap
from aggregate.objectives.vicc import sinkhorn
from aggregate.objectives.video_bank import VideoBank
from pipeline.errors import InvalidInputError
from tests.support.set_batches import TINY, set_batch
from tests.support.slow_systems import (
    BLIND,
    ONE,
    PARSE,
    SEES_TIME,
    SPECS,
    TWINS,
    TWO,
    World,
    log_softmax,
    nt_xent,
    slow_mscl,
    slow_sinkhorn,
    slow_stc_mix,
    slow_svt,
    slow_vicc,
)


@pytest.mark.parametrize("kind", [*ONE, *TWO])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_its_slow_twin(kind, seed):
    world = World(kind, seed=seed)
    expected = TWINS[kind](world)
    assert world.loss() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_vicc_across_streams_in_turn():
    for progress, turn in ((0.0, 0), (0.3, 1), (0.6, 0), (0.9, 1)):
        world = World("vicc", stage="cross", progress=progress, queue=0)
        assert world.objective.turn(progress) == turn
        assert world.loss() == pytest.approx(slow_vicc(world), abs=1e-5)
        world.objective(world.inputs).loss.backward()
        learns = [any(p.grad is not None for p in m.parameters()) for m in world.models.values()]
        assert learns == [turn == 0, turn == 1]


def test_before_its_share_of_the_training_vicc_looks_at_no_other_stream():
    world = World("vicc", stage="cross", progress=0.3, queue=0, cross_from=0.4)
    alone = World("vicc", queue=0, prototypes=7)
    alone.online = {"main": world.online["stream1"]}
    alone.inputs = ObjectiveInput(alone.online, {}, 3, 0.3)
    with torch.no_grad():
        alone.objective.prototypes[0].copy_(world.objective.prototypes[1])
    assert world.loss() == pytest.approx(alone.loss(), abs=1e-6)
    later = World("vicc", stage="cross", progress=0.6, queue=0, cross_from=0.4)
    assert later.loss() == pytest.approx(slow_vicc(later), abs=1e-5)


@pytest.mark.parametrize("among", ["batch", "store"])
def test_before_its_share_of_the_training_coclr_mines_nobody(among):
    world = World("coclr", mine=among, mine_from=0.2)
    usable = world.z()[world.usable()]
    assert world.loss() == pytest.approx(nt_xent(usable[:, :2], 0.07), abs=1e-5)
    same = [World("coclr", mine=among, mine_from=share, progress=0.3).loss() for share in (0.0, 0.2)]
    assert same[0] == same[1]


def test_svt_may_tell_apart_by_outputs_of_its_own():
    world = World("svt", outputs=11)
    assert world.loss() == pytest.approx(slow_svt(world), abs=1e-5)


@pytest.mark.parametrize("kind", ["vicc", "svt"])
def test_prototypes_stay_as_drawn_up_to_their_share_of_the_training(kind):
    more = {"outputs": 11} if kind == "svt" else {"queue": 0}
    for progress, moves in ((0.1, False), (0.3, True)):
        world = World(kind, progress=progress, frozen_until=0.2, **more)
        free = World(kind, progress=progress, **more)
        assert world.loss() == free.loss()
        world.objective(world.inputs).loss.backward()
        drawn = world.objective.outputs if kind == "svt" else world.objective.prototypes[0]
        assert (drawn.grad is not None) == moves
        assert world.models["main"].input_projection.weight.grad.abs().max() > 0


def test_mscl_tells_crops_from_those_that_move_the_other_way():
    world = World("mscl", turned="c/flow_turned")
    assert world.loss() == pytest.approx(slow_mscl(world), rel=1e-5)
    assert world.loss() > World("mscl").loss()  # more to be told from
    world.objective(world.inputs).loss.backward()
    alone = World("mscl")
    alone.objective(alone.inputs).loss.backward()
    changed = [w.models["stream1"].input_projection.weight.grad for w in (world, alone)]
    assert not torch.allclose(*changed)  # negatives are learned from, by the network of the stream they stand beside
    free = World("mscl", turned="c/flow_turned", local_weight=0)
    assert not free.objective.needs_negatives
    assert free.spec.negatives_from == ()
    summed = World("sum", parts=[{"kind": "mscl", "turned": "c/flow_turned"}, {"kind": "scale"}], weights=[1, 0])
    assert summed.loss() == pytest.approx(world.loss(), rel=1e-6)
    with pytest.raises(ValueError, match="one feature set of negatives"):
        PARSE({"kind": "sum", "parts": [{"kind": "mscl", "turned": f"c/{name}"} for name in "ab"]})


def test_a_crop_that_is_hidden_has_no_turned_form():
    world = World("mscl", turned="c/flow_turned", set_weight=0)
    everything = world.batch.valid
    hidden = replace(world.inputs.negatives, batch=replace(world.inputs.negatives.batch, masked=everything))
    loss = world.objective(replace(world.inputs, negatives=hidden)).loss
    assert float(loss.detach()) == pytest.approx(World("mscl", set_weight=0).loss(), rel=1e-6)


def test_stretches_are_pasted_from_the_other_stream():
    world = World("stc_mix", across=True)
    assert world.loss() == pytest.approx(slow_stc_mix(world), abs=1e-5)
    assert world.loss() != pytest.approx(World("stc_mix").loss(), abs=1e-4)
    world.objective(world.inputs).loss.backward()
    assert world.models["stream1"].input_projection.weight.grad is not None


@pytest.mark.parametrize("kind", ["order_contrast", "stc_mix"])
def test_what_the_network_has_read_is_not_read_again(kind):
    """Nor does it matter to the loss, or to what is learned, where a compiled network keeps it to itself."""
    kept, again = World(kind), World(kind)
    again.inputs = replace(again.inputs, online={"main": replace(again.online["main"], read=None)})
    calls = []
    kept.models["main"].input_projection.register_forward_hook(lambda *_: calls.append(1))
    losses = [world.objective(world.inputs).loss for world in (kept, again)]
    assert not calls
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-6)
    for loss in losses:
        loss.backward()
    grads = [world.models["main"].input_projection.weight.grad for world in (kept, again)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


def test_what_weighs_nothing_is_not_made():
    plain = World("ntxent", temperature=0.1)
    bare = World("const_cl", local_weight=0)
    assert list(bare.objective.parameters()) == []
    assert bare.objective.needs_tokens == "none"
    assert bare.loss() == pytest.approx(plain.loss(), abs=1e-6)
    assert World("stc_mix", mix_weight=0).loss() == pytest.approx(World("set", temperature=0.1).loss(), abs=1e-6)
    summed = World("sum", parts=[{"kind": "ntxent", "temperature": 0.1}, {"kind": "svt"}], weights=[3, 0])
    assert not summed.objective.needs_teacher
    assert summed.loss() == pytest.approx(plain.loss(), abs=1e-6)


def test_a_sum_is_the_mean_of_its_parts_by_weight():
    parts = [{"kind": "vicreg"}, {"kind": "maclr"}, {"kind": "const_cl", **SPECS["const_cl"]}]
    world = World("sum", parts=parts, weights=[1, 2, 1])
    assert world.spec.streams_at_most == world.objective.num_streams == 2
    by_hand = [float(part(world.inputs).loss) for part in world.objective.parts]
    assert world.loss() == pytest.approx((by_hand[0] + 2 * by_hand[1] + by_hand[2]) / 4, rel=1e-6)
    assert PARSE(world.spec.model_dump(mode="json")) == world.spec


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"parts": [{"kind": "carl"}], "weights": [1, 2]}, "one weight a part"), ({"parts": [{"kind": "carl"}],
      "weights": [0]}, "above 0"), ({"parts": [{"kind": "nobody"}]}, "nobody"), ({"parts": []}, "at least 1"),
     ({"parts": [{"kind": "scale"}, {"kind": "mcm", "mask_ratio": 0.5}]}, "one mask_ratio")],
)  # fmt: skip
def test_sums_that_make_no_sense_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        PARSE({"kind": "sum", **fields})


def test_vicc_queue_is_used_once_full_and_balances_over_it():
    world = World("vicc", progress=0.9)
    plain = world.loss()  # the queue is empty
    for _ in range(2):
        world.objective(world.inputs)
    assert int(world.objective.queue_filled[0]) == 8
    queue = world.objective.queue[0].double()
    prototypes = functional.normalize(world.objective.prototypes[0].detach().double(), dim=-1)
    views = [world.z()[world.usable(), v] for v in (0, 1)]
    scores = [(v @ prototypes.T).numpy() for v in views]
    q = [slow_sinkhorn(np.concatenate([(queue[v] @ prototypes.T).numpy(), scores[v]]))[8:] for v in (0, 1)]
    expected = np.mean([
        -sum(q[v][n] * log_softmax((scores[1 - v][n] / 0.1).tolist())) for v in (0, 1) for n in range(len(scores[0]))
    ])  # fmt: skip
    found = world.loss()
    assert found == pytest.approx(expected, abs=1e-5)
    assert found != pytest.approx(plain, abs=1e-4)


def test_sinkhorn_balances():
    scores = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    q = sinkhorn(scores, epsilon=0.5, iterations=50)
    torch.testing.assert_close(q.sum(1), torch.ones(40))
    torch.testing.assert_close(q.sum(0), torch.full((5,), 8.0), rtol=1e-3, atol=1e-3)


def test_overlaps_are_those_of_the_boxes():
    a = torch.tensor([0.0, 2.0, 0, 0, 10, 10, 0, 1, 0])
    b = torch.tensor([1.0, 3.0, 5, 0, 15, 10, 1, 1, 0])
    assert float(time_overlap(a, b)) == pytest.approx(1 / 3)
    assert float(box_overlap(a, b)) == pytest.approx(1 / 3)
    assert overlap_bin(torch.tensor([0.0, 0.01, 0.2, 0.21, 1.0]), 5).tolist() == [0, 1, 1, 2, 5]


def test_cvrl_weights_are_the_ratio_of_the_two_laws():
    u = torch.tensor([0.0, 0.25, 0.5, 1.0])
    torch.testing.assert_close(pair_weights(u, 1.0), torch.ones(4))
    torch.testing.assert_close(pair_weights(u, 2.0), 0.75 * (1 + u))
    torch.testing.assert_close(pair_weights(u, 0.5), 1.5 / (1 + u.sqrt()))


def test_what_gives_the_answer_away_is_refused():
    for kind in ("stor", "speed", "concur"):
        with pytest.raises(InvalidInputError, match=r"model\.geometry"):
            build_objective(PARSE({"kind": kind, **SPECS.get(kind, {})})).bind({"main": ScaleModel(8, TINY)})


def slow_coclr_of_store(w: World, turn: int, known: dict[int, tuple[int, torch.Tensor]]) -> float:
    """Mine among `known`: video -> (group, its keys in both streams)."""
    streams = list(w.online)
    z, other = w.z(streams[turn])[w.usable()], w.z(streams[1 - turn])[w.usable()]
    keys = functional.normalize(other[:, :2].sum(1), dim=-1)
    groups, videos = w.batch.group_ids[w.usable()].tolist(), w.batch.video_ids[w.usable()].tolist()
    mined = []
    for i, group in enumerate(groups):
        far = [v for v, (g, _) in known.items() if g != group]
        mined.append(set(sorted(far, key=lambda v, i=i: -float(keys[i] @ known[v][1][1 - turn]))[: w.spec.top_k]))
    beside = sorted(set().union(*mined))
    losses = []
    for i, own in enumerate(videos):
        for s in (0, 1):
            scores = [(v, float(z[i, s] @ z[j, t]) / 0.07) for j, v in enumerate(videos) for t in (0, 1)
                      if (j, t) != (i, s)]  # fmt: skip
            scores += [(v, float(z[i, s] @ known[v][1][turn]) / 0.07) for v in beside]
            top = sum(math.exp(score) for v, score in scores if v in {own, *mined[i]})
            losses.append(-math.log(top / sum(math.exp(score) for _, score in scores)))
    return float(np.mean(losses))


@pytest.mark.parametrize("progress", [0.0, 0.3])
def test_coclr_mines_among_all_videos_that_it_has_seen(progress):
    world, turn = World("coclr", mine="store", progress=progress), int(progress > 0)
    keys = functional.normalize(torch.randn(2, 3, TINY.projection_dim), dim=-1)
    elsewhere, groups = torch.tensor([101, 102, int(world.batch.video_ids[0])]), torch.tensor([50, 51, 0])
    groups[2] = world.batch.group_ids[0]
    world.objective.bank.remember(elsewhere, groups, keys)
    known = {int(v): (int(groups[i]), keys[:, i].double()) for i, v in enumerate(elsewhere)}
    assert world.loss() == pytest.approx(slow_coclr_of_store(world, turn, known), abs=1e-5)
    # The first step left the keys of its videos: those of 101 and 102 stay, that of the first is new.
    streams = [world.z(name)[:, :2].sum(1) for name in world.online]
    new = functional.normalize(torch.stack(streams), dim=-1)
    for i in world.usable():
        known[int(world.batch.video_ids[i])] = (int(world.batch.group_ids[i]), new[:, i])
    assert world.loss() == pytest.approx(slow_coclr_of_store(world, turn, known), abs=1e-5)
    assert sorted(known) == sorted(x for x in world.objective.bank.ids.tolist() if x >= 0)


def test_the_search_in_a_bank_is_exact_whatever_is_read_at_once():
    keys, groups = functional.normalize(torch.randn(1, 40, 6), dim=-1), torch.arange(40) // 3
    bank = VideoBank(50, 1, 6)
    bank.remember(torch.arange(40) * 7, groups, keys)
    whole = bank.nearest(0, keys[0, :5], groups[:5], 4)
    similarity = (keys[0, :5] @ keys[0].T).masked_fill(groups[:5, None] == groups, -2)
    assert torch.equal(whole, similarity.topk(4).indices)
    assert torch.equal(bank.nearest(0, keys[0, :5], groups[:5], 4, at_once=7), whole)
    few = VideoBank(50, 1, 6)
    assert few.nearest(0, keys[0, :1], groups[:1], 2).tolist() == [[-1, -1]]


TOY = {
    "epochs": 4, "batch_size": 6, "set_size": 3, "device": "cpu", "checkpoint_epochs": 2,
    "model": BLIND.model_dump() | {"dropout": 0.1},
}  # fmt: skip


def toy_videos() -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    batch = set_batch(13, 8)
    raw = batch.stored_raw_geometry.clone()
    raw[..., 7] = torch.where(torch.rand(raw.shape[:2], generator=g) < 0.5, 4.0, 8.0)
    x = torch.randn(13, 8, 8, generator=g)
    return {"features": x, "raw_geometry": raw, "more_features": [torch.randn(13, 8, 5, generator=g) for _ in range(2)]}


class Killed(Exception):
    pass


@pytest.mark.parametrize("kind", [*ONE, *TWO, "vicc cross", "coclr store", "mscl turned"])
def test_killed_and_resumed_to_the_same_digits(kind, tmp_path):
    name, _, word = kind.partition(" ")
    more = {"cross": {"stage": "cross"}, "store": {"mine": "store"}, "turned": {"turned": "c/turned"}}.get(word, {})
    objective = {"kind": name, **SPECS.get(name, {}), **more}
    toy = {**TOY, "model": TOY["model"] | {"geometry": "all"}} if name in SEES_TIME else TOY
    whole = train(**toy_videos(), objective=objective, **toy)
    assert whole.history[-1]["loss"] != whole.history[0]["loss"]

    def kill(event):
        if getattr(event, "done", 0) >= 7:
            raise Killed

    with pytest.raises(Killed):
        train(**toy_videos(), objective=objective, checkpoints=tmp_path, on_event=kill, progress_s=0.0, **toy)
    again = train(**toy_videos(), objective=objective, checkpoints=tmp_path, **toy)
    assert again.resumed_from == 4
    for ours, theirs in zip((again.model, *again.others), (whole.model, *whole.others), strict=True):
        for key, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[key], value), key


def test_a_second_stream_that_nothing_compares_costs_no_network():
    result = train(**toy_videos(), objective={"kind": "vicreg"}, **TOY)
    assert result.others == ()
    with pytest.raises(InvalidInputError, match="2 feature sets"):
        train(**{**toy_videos(), "more_features": []}, objective={"kind": "maclr"}, **TOY)
    turned, motion = {"kind": "mscl", "turned": "c/turned"}, toy_videos()["more_features"][0]
    with pytest.raises(InvalidInputError, match="3 feature sets"):
        train(**{**toy_videos(), "more_features": [motion]}, objective=turned, **TOY)
    with pytest.raises(InvalidInputError, match="negatives of 5 channels"):
        train(**{**toy_videos(), "more_features": [motion, motion[..., :4]]}, objective=turned, **TOY)


def test_parts_that_deal_crops_differently_are_refused():
    parts = [(1.0, build_objective(PARSE({"kind": k, **SPECS.get(k, {})}))) for k in ("svt", "teg")]
    with pytest.raises(InvalidInputError, match="share their sets"):
        WeightedSum(parts).splitter(3)
