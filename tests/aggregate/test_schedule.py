from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from aggregate import ScaleModel
from aggregate.data.loader import mix_seed, num_batches, read_ahead
from aggregate.training.schedule import parameter_groups, rate_factor
from tests.support.set_batches import TINY


def released_scheduler(total: int, warmup: float) -> list[float]:
    """Rates that torch's LambdaLR gives with the released code's lambda."""
    steps = warmup * total
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)

    def factor(step: int) -> float:
        return step / steps if step <= steps else 0.5 * (math.cos((step - steps) / (total - steps) * math.pi) + 1)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    rates = []
    for _ in range(total):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("total", [20, 97, 400])
@pytest.mark.parametrize("warmup", [0.05, 0.3])
def test_rates_are_those_of_the_released_scheduler(total, warmup):
    found = [rate_factor(step, total, warmup) for step in range(total)]
    assert found == pytest.approx(released_scheduler(total, warmup), abs=1e-9)
    assert found[0] == 0.0


def test_without_warm_up_it_starts_at_the_top_and_ends_at_nothing():
    assert rate_factor(0, 10, 0.0) == 1.0
    assert rate_factor(10, 10, 0.0) == pytest.approx(0.0, abs=1e-12)
    assert rate_factor(0, 1, 0.05) == 0.0


def test_biases_vectors_and_tokens_do_not_decay():
    model = ScaleModel(8, TINY)
    plain, decayed = parameter_groups(model.named_parameters(), 0.1)
    names = {id(p): n for n, p in model.named_parameters()}
    free = {names[id(p)] for p in plain["params"]}
    assert plain["weight_decay"] == 0.0
    assert decayed["weight_decay"] == 0.1
    assert {"set_cls_token", "msk_token", "norm.weight", "input_projection.bias"} <= free
    assert all(p.ndim > 1 and not names[id(p)].endswith("_token") for p in decayed["params"])
    assert len(plain["params"]) + len(decayed["params"]) == len(names)


def test_seeds_do_not_collide_when_parts_are_swapped():
    seeds = {mix_seed(a, b) for a in range(40) for b in range(40)}
    assert len(seeds) == 1600
    assert len({s & 0xFFFFFFFF for s in seeds}) == 1600  # torch's generator keeps 32 bits


def test_batches_an_epoch():
    assert [num_batches(n, 8) for n in (1, 7, 8, 9, 16)] == [1, 1, 1, 1, 2]


def test_read_ahead_keeps_order_and_hands_on_errors():
    assert list(read_ahead(range(50), 2)) == list(range(50))

    def broken():
        yield 1
        raise OSError("disk gone")

    items = read_ahead(broken(), 2)
    assert next(items) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(items)
    endless = read_ahead(iter(int, 1), 2)
    assert next(endless) == 0
    endless.close()  # the thread ends with the consumer
