"""A video in another order of time is another video: twin, orders, and what would give the answer away."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aggregate import ScaleModel
from aggregate.objectives import ObjectiveInput, build_objective
from aggregate.objectives.order_contrast import drawn_stretches, in_other_places
from aggregate.training.encode import encode_sets
from pipeline.errors import InvalidInputError
from tests.support.set_batches import TINY, set_batch
from tests.support.slow_order import moved, slow_order_contrast
from tests.support.slow_systems import BLIND, PARSE, World


def test_the_orders_of_a_video_alone_are_the_negatives_where_asked():
    world = World("order_contrast", negatives="own")
    assert world.loss() == pytest.approx(slow_order_contrast(world), abs=1e-5)
    assert world.loss() != pytest.approx(World("order_contrast").loss(), abs=1e-2)
    assert world.objective(world.inputs).chance == pytest.approx(math.log(3))


@given(st.integers(2, 6), st.integers(0, 2**32), st.floats(0, 1, exclude_max=True))
def test_stretches_that_change_places_cover_time_once(number, seed, moment):
    cuts, places = drawn_stretches(number, torch.Generator().manual_seed(seed))
    assert sorted(places.tolist()) == list(range(number)) != places.tolist()
    lengths = torch.cat((cuts.new_zeros(1), cuts, cuts.new_ones(1))).diff()
    assert float(lengths.min()) > 0.2 / number
    there = in_other_places(torch.tensor([moment]), cuts, places)
    assert float(there) == pytest.approx(
        moved(float(torch.tensor(moment)), 2, cuts.tolist(), places.tolist()), abs=1e-5
    )


def test_an_order_that_cannot_be_seen_is_refused():
    with pytest.raises(InvalidInputError, match=r"sees when crops are.*'all' or 'time'"):
        build_objective(PARSE({"kind": "order_contrast"})).bind({"main": ScaleModel(8, BLIND)})


def test_crops_hidden_for_another_part_are_hidden_in_every_order():
    """Else the order that is encoded with the others' masks would be known by them."""
    batch, model = set_batch(6, 8, mask_ratio=0.9, seed=1), ScaleModel(8, TINY).eval()
    objective = build_objective(PARSE({"kind": "order_contrast"}))
    logs = objective(ObjectiveInput({"main": encode_sets(model, batch, tokens="none")}, {}, 3)).logs
    assert float(logs["order_loss"]) > 0
    everything = torch.where(batch.masked[..., None], torch.nan, batch.features)
    hidden = replace(batch, features=everything)
    again = objective(ObjectiveInput({"main": encode_sets(model, hidden, tokens="none")}, {}, 3)).logs
    assert float(again["order_loss"]) == float(logs["order_loss"])
