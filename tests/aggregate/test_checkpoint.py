from __future__ import annotations

import json
import threading

import pytest
import torch

from aggregate.training.checkpoint import STATE, TENSORS, CheckpointFolder, only_one


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"model.w": torch.full((3,), value), "rng.cpu": torch.get_rng_state()}


@pytest.fixture
def folder(tmp_path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "run", {"lr": 0.1, "snapshot": "abc"})


def test_the_newest_whole_one_is_loaded_and_two_are_kept(folder):
    assert folder.load_latest() is None
    for step in (3, 7, 12):
        folder.save(step, tensors(step), {"history": [step]})
    assert sorted(p.name for p in folder.folder.iterdir()) == ["step-000000007", "step-000000012"]
    found = folder.load_latest()
    assert found.state["step"] == 12
    assert found.state["history"] == [12]
    assert found.tensors["model.w"].tolist() == [12.0] * 3
    assert torch.equal(found.tensors["rng.cpu"], torch.get_rng_state())


def test_a_damaged_one_is_passed_over(folder):
    folder.save(1, tensors(1), {})
    newest = folder.save(2, tensors(2), {})
    data = bytearray((newest / TENSORS).read_bytes())
    data[-5] ^= 1
    (newest / TENSORS).write_bytes(data)
    assert folder.load_latest().state["step"] == 1
    (newest / STATE).write_text("{")
    assert folder.load_latest().state["step"] == 1
    (newest / STATE).unlink()
    assert folder.load_latest().state["step"] == 1


def test_half_written_ones_do_not_count(folder):
    folder.save(1, tensors(1), {})
    partial = folder.folder / ".partial-000000002-77"
    partial.mkdir()
    (partial / TENSORS).write_bytes(b"half")
    assert folder.load_latest().state["step"] == 1
    folder.save(2, tensors(2), {})
    assert folder.load_latest().state["step"] == 2


def test_another_identity_is_another_training(folder, tmp_path):
    folder.save(1, tensors(1), {})
    assert CheckpointFolder(tmp_path / "run", {"lr": 0.2, "snapshot": "abc"}).load_latest() is None


def test_hostile_state_is_passed_over(folder):
    kept = folder.save(1, tensors(1), {})
    state = json.loads((kept / STATE).read_text())
    for wrong in ([], {"sha256": 5}, {**state, "sha256": None}, "x"):
        (kept / STATE).write_text(json.dumps(wrong))
        assert folder.load_latest() is None


def test_saving_again_replaces_and_clearing_removes(folder):
    folder.save(1, tensors(1), {})
    folder.save(1, tensors(5), {})
    assert folder.load_latest().tensors["model.w"][0] == 5
    folder.clear()
    assert not folder.folder.exists()


def test_only_one_is_inside_also_where_one_waits_while_the_holder_ends(tmp_path):
    """The holder removes the lock's file; who waited for it and who comes later must still meet at one lock."""
    inside, most, started = [], [], threading.Barrier(3)
    folder, guard = tmp_path / "runs" / "t", threading.Lock()

    def work(name: int) -> None:
        started.wait()
        for _ in range(150):
            with only_one(folder, lambda: None):
                with guard:
                    inside.append(name)
                    most.append(len(inside))
                with guard:
                    inside.remove(name)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 450
    assert max(most) == 1
    assert not folder.parent.exists()
