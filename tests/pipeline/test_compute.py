"""The room for torch: schedule, seeds, threads, memory, transfer."""

from __future__ import annotations

import ast
import contextlib
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.compute.memory import free_bytes, is_out_of_memory
from pipeline.compute.schedule import warm_up_cosine
from pipeline.compute.seeds import keyed, own_random, seeded
from pipeline.compute.threads import at_most_threads, num_cores, num_threads
from pipeline.compute.transfer import pinned, send, start_download

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


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
    found = [warm_up_cosine(step, total, warmup * total) for step in range(total)]
    assert found == pytest.approx(released_scheduler(total, warmup), abs=1e-9)
    assert found[0] == 0.0


def test_without_warm_up_it_starts_at_the_top_and_ends_at_nothing():
    assert warm_up_cosine(0, 10, 0.0) == 1.0
    assert warm_up_cosine(10, 10, 0.0) == pytest.approx(0.0, abs=1e-12)
    assert warm_up_cosine(0, 1, 0.05) == 0.0


@pytest.mark.parametrize("total", [1, 2, 19, 480])
def test_the_probes_count_from_one_and_get_the_rates_they_always_had(total):
    warmup = max(1, round(0.05 * total))
    for step in range(1, total + 1):
        progress = max(0.0, (step - warmup) / max(1, total - warmup))
        before = min(1.0, step / warmup) * 0.5 * (1 + math.cos(math.pi * progress))
        assert warm_up_cosine(step, total, warmup) == before  # to the last bit: reports name these numbers


def test_seeds_do_not_collide_when_parts_are_swapped():
    seeds = {keyed(a, b) for a in range(40) for b in range(40)}
    assert len(seeds) == 1600
    assert len({s & 0xFFFFFFFF for s in seeds}) == 1600  # torch's generator keeps 32 bits


def test_seeds_are_those_that_stored_models_were_trained_with():
    stored = [7070836379803831727, 3069472533636442495, 6791897765849424158, 2241826180665719462]
    assert [keyed(0), keyed(0, 1), keyed(1, 0), keyed(7, 1, 3)] == stored


def test_a_generator_of_its_own_does_not_touch_the_callers():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    inside = torch.rand(3, generator=seeded(5))
    with own_random(5):
        assert torch.equal(torch.rand(3), inside)
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_are_given_back_whatever_happens():
    before = torch.get_num_threads()
    with contextlib.suppress(ZeroDivisionError), at_most_threads(0):
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    with at_most_threads(before + 5):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_the_variable_of_openmp_decides_over_the_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert num_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert num_threads() == num_cores() >= 1


def test_memory_that_is_used_up_is_known_by_its_words():
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert free_bytes(CPU) > 1 << 20


def test_on_a_cpu_nothing_is_copied():
    values = torch.arange(6.0).view(2, 3)
    assert send(values, CPU) is values
    assert pinned(values, CPU) is values
    assert start_download(values).wait().ctypes.data == values.data_ptr()


@pytest.mark.gpu
def test_to_a_gpu_and_back_through_pinned_memory():
    gpu = torch.device("cuda:0")
    values = torch.arange(6.0).view(2, 3)
    assert pinned(values, gpu).is_pinned()
    there = send(values, gpu)
    assert send(there, gpu) is there
    assert start_download(there * 2).wait().tolist() == (values * 2).tolist()
    torch.cuda.manual_seed(1)
    before = torch.cuda.get_rng_state(gpu)
    with own_random(5, gpu):
        first = torch.rand(3, device=gpu)
    with own_random(5, gpu):
        assert torch.equal(torch.rand(3, device=gpu), first)
    assert torch.equal(torch.cuda.get_rng_state(gpu), before)


def test_what_the_stages_share_on_top_of_torch_stands_in_one_room():
    """A second copy would drift from the first, as devices did."""
    shared = (
        "manual_seed",
        "set_num_threads",
        "pin_memory",
        "fork_rng",
        "mallopt",
        "sched_getaffinity",
        "mem_get_info",
    )
    found = [
        (str(path.relative_to(ROOT)), node.attr)
        for package in ("pipeline", "extract", "aggregate", "probe", "flows")
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in shared
    ]
    assert {path.rsplit("/", 1)[0] for path, _ in found} == {"pipeline/compute"}
