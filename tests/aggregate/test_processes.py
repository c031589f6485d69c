"""Two processes that share every batch train the network that one process trains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aggregate.pretraining.processes import backend_for
from tests.aggregate.test_pretrainer import OBJECTIVES, make_spec, pretrain

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
import torch
from safetensors.torch import save_file
from aggregate.pretraining.processes import join_processes, leave_processes
from tests.aggregate.test_pretrainer import OBJECTIVES, make_spec, pretrain
from tests.support.clip_source import ToySource
processes = join_processes(torch.device("cpu"))
assert processes.number == 2
for name in ("ntxent", "vicc", "vicreg"):
    spec = make_spec(epochs=6, **OBJECTIVES[name])
    result = pretrain(spec, ToySource(views=spec.views_per_step, share=processes.share), processes=processes)
    save_file(result.encoder.state_dict(), f"{sys.argv[1]}/{name}-{processes.rank}.safetensors")
leave_processes()
"""


def test_processes_that_share_a_gpu_speak_through_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for local, device, backend in ((1, "cuda", "nccl"), (2, "cuda", "nccl"), (3, "cuda", "gloo"), (2, "cpu", "gloo")):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
        assert backend_for(torch.device(device)) == backend


@pytest.mark.slow
def test_two_processes_equal_one_with_the_same_batch(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [*command, str(tmp_path / "train.py"), str(tmp_path)], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("ntxent", "vicc", "vicreg"):
        one = pretrain(make_spec(epochs=6, **OBJECTIVES[name])).encoder.state_dict()
        both = [load_file(tmp_path / f"{name}-{rank}.safetensors") for rank in (0, 1)]
        drawn = pretrain(make_spec(epochs=1, learning_rate=1e-12, **OBJECTIVES[name])).encoder.state_dict()
        for key, tensor in one.items():
            assert torch.equal(both[0][key], both[1][key])
            assert float((both[0][key] - tensor).abs().max()) <= 1e-4
        assert any(float((one[key] - drawn[key]).abs().max()) > 1e-2 for key in one)
