"""Weights files: found, hashed before a byte is interpreted, read without unpickling code, loaded strictly."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from extract.backbones.inflation import check_inflation
from pipeline.errors import NotFoundError, WeightsError
from pipeline.fingerprint import hash_file
from pipeline.recipe import WeightsFile
from pipeline.settings import Settings

if TYPE_CHECKING:
    import torch

CONTAINER_KEYS = ("model_state", "state_dict", "model", "module")
"""Under which published checkpoints keep their tensors, in order of preference."""
TWO_NETWORKS = {"online": "student", "momentum": "teacher"}
"""Containers of DINO-style checkpoints."""
SHIPPED = Path(__file__).resolve().parent / "shipped"
"""Weights that are part of the package; they are found wherever a store that used them is asked."""


def resolve_weights(weights: WeightsFile, settings: Settings, *, what: str) -> Path:
    """Find a weights file and check its hash.

    Raises
    ------
    NotFoundError
        If it is in none of the places that settings name, nor part of the package.
    WeightsError
        If its sha256 is another than the recipe's.
    """
    path = _find(weights.path, settings, what=f"weights of {what}")
    state = path.stat()
    found = _hash_once(str(path), state.st_size, state.st_mtime_ns)
    if found != weights.sha256.lower():
        raise WeightsError(
            f"weights of {what}: expected sha256 {weights.sha256.lower()} for {path}, found {found}; "
            "get the right file, or put the hash of the file you trust into the recipe"
        )
    return path


def _find(path: str, settings: Settings, *, what: str) -> Path:
    try:
        return settings.resolve_input(path, what=what)
    except NotFoundError:
        if Path(path).name == path and (SHIPPED / path).is_file():
            return SHIPPED / path
        raise


@lru_cache(maxsize=64)
def _hash_once(path: str, size_bytes: int, mtime_ns: int) -> str:
    """Hash a file; a plan and the run after it ask twice. Size and time make a changed file another question."""
    return hash_file(path)


def read_state_dict(path: Path, network: Literal["online", "momentum"] = "online") -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint: safetensors, or a torch file through ``weights_only=True``.

    Parameters
    ----------
    path : Path
    network : {"online", "momentum"}
        Of a DINO-style file with both: the student or the teacher.

    Returns
    -------
    dict of str to Tensor
        On the CPU; out of the usual containers ({"model_state": ...} and the like), prefixes as stored.

    Raises
    ------
    WeightsError
        If the file would need code to be unpickled, is damaged, or holds no tensors.
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return _unwrap(content, path, network)


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as err:
        raise WeightsError(f"expected a safetensors file at {path}, found something else: {err}") from err


def _read_torch(path: Path) -> Any:
    import pickle

    import torch

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_inflation(archive, path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        raise WeightsError(
            f"expected tensors and plain containers in {path}, found objects that only unpickling code could read "
            f"({_first_line(err)}); re-save the state dict alone as safetensors on a machine that may trust the file"
        ) from err
    except WeightsError:
        raise
    except Exception as err:  # the restricted unpickler meets hostile bytes with any error it happens to run into
        raise WeightsError(f"expected a torch checkpoint at {path}, found something else: {_first_line(err)}") from err


def _unwrap(content: Any, path: Path, network: str) -> dict[str, torch.Tensor]:
    import torch

    for _ in range(3):  # {"state_dict": {"model": {...}}} has been seen
        if not isinstance(content, Mapping):
            break
        if network == "momentum" and "student" in content and "teacher" not in content:
            raise WeightsError(f"expected the momentum copy (`teacher`) in {path}, found `student` alone")
        keys = (TWO_NETWORKS[network], *TWO_NETWORKS.values(), *CONTAINER_KEYS)
        inner = next((content[key] for key in keys if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if isinstance(content, Mapping):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
        if tensors:
            return tensors
    places = ", ".join((*CONTAINER_KEYS, *TWO_NETWORKS.values()))
    raise WeightsError(
        f"expected a mapping of names to tensors in {path} (at the top or under {places}), "
        f"found {type(content).__name__} without any"
    )


def load_strict(
    network: torch.nn.Module, state: Mapping[str, torch.Tensor], *, what: str, except_for: str | None = None
) -> None:
    """Load every tensor of a network, or none.

    Parameters
    ----------
    network : torch.nn.Module
    state : mapping of str to Tensor
    what : str
        For messages.
    except_for : str, optional
        Pattern of the network's own keys that are left as they are: its classifier.

    ``num_batches_tracked`` may be absent: it is used in training alone, and
    Caffe2-born checkpoints lack it.

    Raises
    ------
    WeightsError
        With the missing keys, the unexpected keys, and the shapes that differ.
    """
    left_out = re.compile(except_for) if except_for else None
    expected = {k: v for k, v in network.state_dict().items() if not (left_out and left_out.match(k))}
    optional = {key for key in expected if key.endswith("num_batches_tracked")}
    missing = sorted(expected.keys() - state.keys() - optional)
    unexpected = sorted(k for k in state.keys() - expected.keys() if not k.endswith("num_batches_tracked"))
    shapes = [
        f"{key}: expected {tuple(expected[key].shape)}, found {tuple(state[key].shape)}"
        for key in sorted(expected.keys() & state.keys())
        if expected[key].shape != state[key].shape
    ]
    if missing or unexpected or shapes:
        found = _some("missing", missing) + _some("unexpected", unexpected) + _some("shapes", shapes)
        raise WeightsError(
            f"weights of {what} do not fit the network ({len(expected) - len(optional)} tensors expected, "
            f"{len(state)} found){found}; "
            "check that the recipe's model is the one the file was made for"
        )
    network.load_state_dict(dict(state), strict=False)


def _some(title: str, items: list[str], most: int = 5) -> str:
    if not items:
        return ""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return f"; {len(items)} {title}: {', '.join(items[:most])}{more}"


def _first_line(err: BaseException) -> str:
    text = str(err).strip() or type(err).__name__
    return text.splitlines()[0][:300]
