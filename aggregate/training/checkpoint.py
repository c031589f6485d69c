"""Checkpoints of a training in progress: whole or absent, never half.

A checkpoint is a folder `step-<n>` with `state.safetensors` (parameters,
optimiser, moving average, RNG) and `state.json` (where the training stood, with
the hash of the tensors). It is written beside its name, fsynced and renamed.
Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.errors import StorageError
from pipeline.fingerprint import hash_file
from pipeline.outside import from_outside
from pipeline.storage.whole_file import whole_folder

TENSORS, STATE = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What was read back.

    Attributes
    ----------
    tensors : mapping
        Flat names -> CPU tensors.
    state : mapping
        JSON-like: step, epoch, identity, history ...
    """

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


class CheckpointFolder:
    """The checkpoints of one training, newest wins.

    Parameters
    ----------
    folder : Path
        Local; created when first written to.
    identity : mapping
        JSON-like: configuration, fingerprint, snapshot. A checkpoint with another identity is not resumed from.
    keep : int
        How many to keep.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, keep: int = 2) -> None:
        self.folder = folder
        self.identity = json.loads(json.dumps(identity))
        self.keep = keep

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Write one checkpoint atomically and drop the oldest beyond `keep`.

        Returns
        -------
        Path
            Its folder.
        """
        final = self.folder / f"step-{step:09d}"
        with whole_folder(final) as partial:
            try:
                save_file({name: _storable(tensor) for name, tensor in tensors.items()}, partial / TENSORS)
            except SafetensorError as err:  # its only trouble here is the disk
                raise from_outside(err) or StorageError(f"expected to write a checkpoint to {partial}: {err}") from err
            content = {**state, "step": step, "identity": self.identity, "sha256": hash_file(partial / TENSORS)}
            (partial / STATE).write_text(json.dumps(content), encoding="utf-8")
        for old in self._folders()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return final

    def load_latest(self) -> Checkpoint | None:
        """Return the newest whole checkpoint of this identity, or None.

        A damaged one (wrong hash, unreadable) is passed over for the one before it.
        """
        for folder in reversed(self._folders()):
            try:
                state = json.loads((folder / STATE).read_text(encoding="utf-8"))
                if state.get("identity") != self.identity or state.get("sha256") != hash_file(folder / TENSORS):
                    continue
                return Checkpoint(load_file(folder / TENSORS), state)
            except (OSError, ValueError, AttributeError, SafetensorError):
                continue
        return None

    def clear(self) -> None:
        """Remove the folder and everything in it; the training is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []


@contextlib.contextmanager
def only_one(folder: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock beside a training folder, so that two processes never write the same checkpoints.

    The lock is the operating system's: a killed process has let go of it.

    Parameters
    ----------
    folder : Path
    on_wait : callable
        Called once if another process holds it; this one then waits.
    """
    path = folder.parent / f"{folder.name}.lock"
    told = False
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except (FileNotFoundError, FileExistsError):  # whoever ended has just removed the folder
            if path.parent.is_file():
                raise
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    on_wait()
                    told = True
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_file_at(path, file.fileno()):
                continue  # its last holder removed it while we waited: the lock of a file that nobody else will find
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # the folder of other trainings still in progress
                    path.parent.rmdir()
        return


def _is_file_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def pack_training(
    model: nn.Module,
    objective: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: nn.Module | None,
    device: torch.device,
    others: nn.Module | None = None,
) -> dict[str, Tensor]:
    """Collect everything that the next step depends on as named CPU tensors."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"objective.{name}": value for name, value in objective.state_dict().items()}
    if others is not None:
        tensors |= {f"others.{name}": value for name, value in others.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for index, entries in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": torch.as_tensor(value) for key, value in entries.items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    return tensors


def unpack_training(
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    objective: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: nn.Module | None,
    device: torch.device,
    others: nn.Module | None = None,
) -> None:
    """Put everything from :func:`pack_training` back in place."""
    model.load_state_dict(_below(tensors, "model."))
    objective.load_state_dict(_below(tensors, "objective."))
    if others is not None:
        others.load_state_dict(_below(tensors, "others."))
    if average is not None:
        average.load_state_dict(_below(tensors, "average."))
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in _below(tensors, "optimiser.").items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = value
    state = optimiser.state_dict()
    optimiser.load_state_dict({"state": entries, "param_groups": state["param_groups"]})
    _lay_out_as_weights(optimiser)
    torch.set_rng_state(tensors["rng.cpu"])
    if device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)


def _lay_out_as_weights(optimiser: torch.optim.Optimizer) -> None:
    """Give moments the strides of their weights: fused steps walk through both by address, whatever the strides say."""
    for weight, entries in optimiser.state.items():
        for key, value in entries.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                entries[key] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _storable(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
