"""Faults of the world are told as such, with what to do; `a fault in scale itself` is for our own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from pipeline import errors
from pipeline.outside import from_outside


class OutOfMemoryException(Exception):
    """Called as DuckDB calls its own."""


@pytest.mark.parametrize(
    ("error", "kind", "advice"),
    [
        (MemoryError(), errors.ResourceError, "--workers"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), errors.ResourceError, "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), errors.ResourceError, "batch_size"),
        (OutOfMemoryException("failed to pin block"), errors.ResourceError, "narrower query"),
        (RuntimeError("can't start new thread"), errors.ResourceError, "ulimit"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), errors.ResourceError, "ulimit"),
        (OSError(errno.EMFILE, "Too many open files", "x"), errors.ResourceError, "ulimit"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), errors.ResourceError, "memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/s/x"), errors.StorageError, "full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), errors.StorageError, "full"),
        (OSError(errno.EIO, "Input/output error", "/s/x"), errors.StorageError, "/s/x"),
        (PermissionError(errno.EACCES, "Permission denied", "/s/x"), errors.SetupError, "owner or mode"),
        (OSError(errno.EROFS, "Read-only file system", "/s/x"), errors.SetupError, "another place"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 9000), errors.InvalidInputError, "name another"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/s/x"), errors.NotFoundError, "check the path"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), errors.InvalidInputError, "UTF-8"),
    ],
)
def test_each_kind_has_its_error_and_advice(error: Exception, kind: type, advice: str) -> None:
    found = from_outside(error)
    assert type(found) is kind
    assert advice in str(found)
    assert "[Errno" not in str(found).split("(")[0]
    assert len(str(found)) < 800


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), RuntimeError("shape mismatch"), AssertionError()])
def test_what_may_be_ours_stays_ours(error: Exception) -> None:
    assert from_outside(error) is None


def test_our_own_errors_pass() -> None:
    error = errors.RecipeError("x")
    assert from_outside(error) is error


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from aggregate.training.checkpoint import CheckpointFolder
from pipeline.errors import StorageError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # writes beyond fail as they do on a full disk
folder = Path(sys.argv[1])
try:
    CheckpointFolder(folder, {}).save(1, {"x": torch.zeros(100_000)}, {})
except StorageError as err:
    print("free some" in str(err), sorted(p.name for p in folder.iterdir()))
"""


def test_a_disk_that_is_full_in_training_is_a_storage_error_and_leaves_nothing_half(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.stdout.strip() == "True []", done.stderr
