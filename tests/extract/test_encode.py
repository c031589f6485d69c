"""The encoder: batches across videos, memory that runs out, streams from many threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from extract.device import encode
from extract.device.encode import CropItem, Encoder
from extract.device.memory import ByteBudget
from extract.pixels import streams
from extract.pixels.preprocess import normalise
from extract.rates import Rates
from extract.targets import ViewSpec, resolve_targets
from pipeline.errors import OutOfMemoryError
from pipeline.settings import Settings
from tests.support.extraction import tiny_recipe

VIEW = ViewSpec(4, 16, False)


class FakeBackbone:
    """Returns each crop's mean colour; refuses batches above `most`, as a full device does."""

    dim = 3

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.sizes: list[int] = []

    def takes_channels_last(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == 5

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        if len(clips) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.sizes.append(len(clips))
        return clips.mean(dim=(2, 3, 4))


@pytest.fixture
def targets(program):
    return resolve_targets(tiny_recipe(program), Settings(), decoder={"name": "x"}, only=["grid"])


def feed(encoder: Encoder, count: int) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    for k in range(count):
        pixels = torch.full((4, 16, 16, 3), k % 200, dtype=torch.uint8)
        encoder.add(VIEW, CropItem(pixels, None, {"grid/tiny": partial(found.__setitem__, k)}))
    while encoder.flush():
        pass
    return found


def assert_right(found: dict[int, np.ndarray], count: int) -> None:
    assert sorted(found) == list(range(count))
    expected = [((k % 200) / 255 - 0.45) / 0.225 for k in range(count)]
    np.testing.assert_allclose([found[k][0] for k in range(count)], expected, atol=1e-4)


def test_batches_have_one_size_until_the_last(targets):
    network = FakeBackbone()
    assert_right(feed(Encoder(targets, {"tiny": network}, batch_crops=8), 27), 27)
    assert network.sizes == [8, 8, 8, 3]


def test_out_of_memory_halves_the_batch_and_goes_on(targets):
    network = FakeBackbone(most=3)
    encoder = Encoder(targets, {"tiny": network}, batch_crops=16)
    assert_right(feed(encoder, 40), 40)
    assert max(network.sizes) == 2
    assert len(encoder.notes) == 3
    with pytest.raises(OutOfMemoryError, match="single crop"):
        feed(Encoder(targets, {"tiny": FakeBackbone(most=0)}, batch_crops=4), 4)


def test_other_errors_are_not_taken_for_lack_of_memory(targets):
    class Broken(FakeBackbone):
        def __call__(self, clips: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        feed(Encoder(targets, {"tiny": Broken()}, batch_crops=2), 2)


def test_many_threads_lose_nothing(targets):
    network = FakeBackbone()
    encoder = Encoder(targets, {"tiny": network}, batch_crops=7)
    found: dict[int, np.ndarray] = {}

    def bring(k: int) -> None:
        pixels = torch.full((4, 16, 16, 3), k % 200, dtype=torch.uint8)
        encoder.add(VIEW, CropItem(pixels, None, {"grid/tiny": partial(found.__setitem__, k)}))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(bring, range(300)))
    while encoder.flush():
        pass
    assert_right(found, 300)


def test_flow_that_is_there_is_turned_and_not_sought_again(program, monkeypatch):
    pytest.importorskip("cv2")
    recipe = tiny_recipe(program, streams=("flow", "flow_turned"))
    targets = resolve_targets(recipe, Settings(), decoder={"name": "x"}, only=["grid"])
    sought = []
    apply = streams.apply_stream
    monkeypatch.setattr(encode, "apply_stream", lambda *args: sought.append(args[0]) or apply(*args))
    found: dict[str, np.ndarray] = {}
    pixels = torch.randint(0, 256, (2, 4, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = [target.label for target in targets]
    encoder = Encoder(targets, {"tiny": FakeBackbone()}, batch_crops=1)
    encoder.add(VIEW, CropItem(pixels[0], pixels[1], {label: partial(found.__setitem__, label) for label in labels}))
    while encoder.flush():
        pass
    assert sought == ["flow"]
    alone = normalise(apply("flow_turned", pixels[:1], pixels[1:]), targets[0].info.mean, targets[0].info.std)
    np.testing.assert_allclose(found["grid/tiny-flow_turned"], alone.mean(dim=(2, 3, 4))[0], rtol=1e-6)
    assert not np.allclose(found["grid/tiny-flow"], found["grid/tiny-flow_turned"])


def test_the_next_batch_is_computed_before_the_last_one_is_fetched(targets):
    """On a GPU the device must have work while the host waits for features: the same path, here on the CPU."""
    story: list[str] = []

    class Network(FakeBackbone):
        def __call__(self, clips: torch.Tensor) -> torch.Tensor:
            story.append(f"run {len(self.sizes)}")
            return super().__call__(clips)

    encoder = Encoder(targets, {"tiny": Network()}, batch_crops=2, batches_ahead=1)
    found: dict[int, np.ndarray] = {}

    def deliver(k: int, feature: np.ndarray) -> None:
        story.append(f"crop {k}")
        found[k] = feature

    for k in range(7):
        pixels = torch.full((4, 16, 16, 3), k, dtype=torch.uint8)
        encoder.add(VIEW, CropItem(pixels, None, {"grid/tiny": partial(deliver, k)}))
    assert story == ["run 0", "run 1", "crop 0", "crop 1", "run 2", "crop 2", "crop 3"]
    assert encoder.flush()
    assert story[7:] == ["run 3", "crop 4", "crop 5"]
    assert encoder.flush()
    assert story[10:] == ["crop 6"]
    assert not encoder.flush()
    assert_right(found, 7)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_many_threads_lose_nothing_with_batches_in_flight(targets, ahead):
    rates = Rates()
    encoder = Encoder(targets, {"tiny": FakeBackbone(most=5)}, batch_crops=7, batches_ahead=ahead, rates=rates)
    found: dict[int, np.ndarray] = {}

    def bring(k: int) -> None:
        pixels = torch.full((4, 16, 16, 3), k % 200, dtype=torch.uint8)
        encoder.add(VIEW, CropItem(pixels, None, {"grid/tiny": partial(found.__setitem__, k)}))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(bring, range(300)))
    while encoder.flush():
        pass
    assert_right(found, 300)
    assert rates.units["forward"] == 300


@pytest.mark.gpu
def test_features_come_back_from_a_gpu_while_it_goes_on(targets):
    rates = Rates()
    encoder = Encoder(targets, {"tiny": FakeBackbone()}, batch_crops=8, rates=rates)
    found: dict[int, np.ndarray] = {}
    for k in range(100):
        pixels = torch.full((4, 16, 16, 3), k, dtype=torch.uint8, device="cuda")
        encoder.add(VIEW, CropItem(pixels, None, {"grid/tiny": partial(found.__setitem__, k)}))
    while encoder.flush():
        pass
    assert_right(found, 100)
    assert rates.as_details()["busy_seconds"]["forward"] > 0
    assert rates.units["forward"] == 100


def test_the_byte_budget_bounds_bytes_and_holders():
    budget = ByteBudget(100, max_holders=2)
    budget.acquire(500)  # larger than all: alone
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(budget.acquire, 10)
        assert not waiting.done()
        budget.release(500)
        waiting.result(timeout=5)
        budget.acquire(10)
        third = pool.submit(budget.acquire, 1)
        assert not third.done()
        budget.close()
        third.result(timeout=5)
