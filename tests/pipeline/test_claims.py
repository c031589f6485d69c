"""Claims and interrupts: whatever step Ctrl-C falls on, nobody is left holding a shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.storage.claims import Claim, Claims
from pipeline.storage.opening import open_backend


@pytest.mark.parametrize("step", ["create", "delete", "start"])
def test_an_interrupt_while_claiming_leaves_no_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    backend = open_backend(tmp_path, writable=True)
    now = [0.0]
    claims = Claims(backend, "claims", clock=lambda: now[0])
    backend.create("claims/7-0.json", b"what a dead worker left")  # so that there is an old one to delete
    with monkeypatch.context() as patch:
        owner, name = (Claim, "_start") if step == "start" else (type(backend), step)
        done = getattr(owner, name)

        def interrupted(*arguments: Any) -> None:
            done(*arguments)
            patch.undo()  # Ctrl-C comes once
            raise KeyboardInterrupt

        patch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            claims.claim("7")
    assert claims.holders() == {}
    with claims.claim("7") or pytest.fail("expected to get the claim") as again:
        assert list(claims.holders()) == ["7"]
    assert not again.is_lost
    assert claims.holders() == {}
