from __future__ import annotations

import pytest

from aggregate import ScaleModel
from aggregate.data.loader import num_batches, read_ahead
from aggregate.training.parameters import parameter_groups
from tests.support.set_batches import TINY


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
