"""benchmarks/train.py measures what it says, with the code that runs where a GPU is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from benchmarks import train

    return train


def checked(row: dict[str, object]) -> None:
    assert float(str(row["difference of losses"])) < 1e-5
    assert re.fullmatch(r"\d+\.\d\d \(\d+\.\d\d-\d+\.\d\d\)", str(row["ours / plain"]))
    assert 0 < float(str(row["data side / step"]).removesuffix(" %")) < 100


@pytest.mark.parametrize("bf16", [False, True])
def test_both_formulations_are_measured_and_agree(bench, bf16):
    row = bench.compare(4, torch.device("cpu"), 1, bf16=bf16)
    checked(row)
    assert row["ours in"] == ("bfloat16" if bf16 else "float32")


def test_bfloat16_computes_in_bfloat16_and_scores_in_float32(bench):
    cpu = torch.device("cpu")
    side = bench.Side(bench.ModelSpec(dropout=0.0), cpu, ours=True, bf16=True)
    batch = bench.next_batch(bench.make_source(4, cpu), 4, 0, cpu)
    seen = {}
    for name in ("input_projection", "dense_target_head", "dense_pred_head", "set_head"):
        hook = lambda module, inputs, output, name=name: seen.__setitem__(name, output.dtype)  # noqa: E731
        getattr(side.model, name).register_forward_hook(hook)
    loss = side.loss(batch)
    assert set(seen.values()) == {torch.bfloat16}
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(bench.plain_loss(side.model, batch).detach()), rel=2e-2)
    loss.backward()
    assert {p.grad.dtype for p in side.model.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.gpu
def test_the_gpu_rows_are_measured(bench):
    checked(bench.compare(16, torch.device("cuda"), 2, bf16=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is said without a GPU")
def test_a_gpu_that_is_not_there_is_an_error_and_leaves_the_record_alone():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train", "--device", "cuda"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "expected a CUDA device, found none; --device cpu measures the same code" in done.stderr
