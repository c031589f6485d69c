"""What a notebook hands over, checked: tensors, arrays or lists in, tensors of the right kind and shape out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import InvalidInputError, ShapeMismatchError
from pipeline.storage.schema import GEOMETRY_COLUMNS

Array = Tensor | np.ndarray
"""What the verbs of `aggregate` take; nested lists of numbers serve as well."""

CHECKED_VIDEOS = 4096
"""Videos at a time that are looked at for NaN: one bool a value, not one a data set."""
MAX_NAMED = 5


def as_tensor(name: str, array: Array | Sequence[object]) -> Tensor:
    """Return a tensor without gradient; NumPy arrays of any byte order and stride.

    Raises
    ------
    InvalidInputError
        If it is no array of real numbers.
    """
    if isinstance(array, np.ndarray):  # reversed views and big-endian files are arrays like any other
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
        array = array if array.flags.writeable else array.copy()
    try:
        tensor = torch.as_tensor(array).detach()
    except (TypeError, ValueError, RuntimeError) as err:
        raise InvalidInputError(f"expected {name} as a tensor or array of numbers, found {_kind(array)}") from err
    if tensor.is_complex():
        raise InvalidInputError(f"expected {name} to be real, found {tensor.dtype}")
    return tensor


def as_crops(features: Array, raw_geometry: Array, *, input_dim: int | None = None) -> tuple[Tensor, Tensor]:
    """Check features (N, V, D) against raw geometry (N, V, 9).

    Returns
    -------
    features : Tensor
        float16 as it came, anything else as float32; on its device.
    raw_geometry : Tensor
        float32 on the CPU.

    Raises
    ------
    ShapeMismatchError
        If they do not fit each other (or `input_dim`), or hold no crop or no channel.
    """
    x, raw = as_tensor("features", features), as_tensor("raw geometry", raw_geometry)
    num_columns = len(GEOMETRY_COLUMNS)
    fits = x.ndim == 3 and raw.shape == (*x.shape[:2], num_columns) and min(x.shape[1:]) > 0
    if not fits or input_dim not in (None, x.shape[2]):
        hint = ""
        if x.ndim == raw.ndim == 2:
            hint = "; a single video goes in as features[None], raw_geometry[None]"
        elif raw.shape[-1:] != (num_columns,):
            hint = f"; the columns of raw geometry are {', '.join(GEOMETRY_COLUMNS)}"
        raise ShapeMismatchError(
            f"expected features (videos, crops >= 1, {input_dim or 'channels >= 1'}) and raw geometry "
            f"(videos, crops, {num_columns}), found {tuple(x.shape)} and {tuple(raw.shape)}{hint}"
        )
    return x if x.dtype == torch.float16 else x.float(), raw.float().cpu()


def as_valid(valid: Array | None, shape: Sequence[int]) -> Tensor:
    """Check a validity mask (N, V); None: every crop is valid.

    Raises
    ------
    ShapeMismatchError
        If it has another shape.
    InvalidInputError
        If it holds anything but truth values (0 and 1 are).
    """
    if valid is None:
        return torch.ones(tuple(shape), dtype=torch.bool)
    mask = as_tensor("valid", valid)
    if mask.shape != tuple(shape):
        raise ShapeMismatchError(f"expected valid {tuple(shape)}, one truth value a crop, found {tuple(mask.shape)}")
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise InvalidInputError(f"expected valid to hold truth values, found other {mask.dtype} numbers")
    return mask.bool().cpu()


def as_ids(name: str, ids: Array, num_videos: int) -> Tensor:
    """Check (N,) integers.

    Raises
    ------
    ShapeMismatchError
        If there is not one a video.
    InvalidInputError
        If they are no integers.
    """
    tensor = as_tensor(name, ids)
    if tensor.shape != (num_videos,):
        raise ShapeMismatchError(f"expected {name} ({num_videos},), found {tuple(tensor.shape)}")
    if tensor.is_floating_point() or tensor.dtype == torch.bool:
        raise InvalidInputError(
            f"expected {name} to be integers, found {tensor.dtype}; "
            "np.unique(names, return_inverse=True)[1] makes some of names"
        )
    return tensor.long().cpu()


def as_frame_sizes(sizes: Array | None, num_videos: int) -> Tensor | None:
    """Check (N, 2) heights and widths.

    Raises
    ------
    ShapeMismatchError
        If there is not one pair a video.
    """
    if sizes is None:
        return None
    tensor = as_tensor("frame_size_px", sizes)
    if tensor.shape != (num_videos, 2):
        raise ShapeMismatchError(
            f"expected frame_size_px ({num_videos}, 2), height and width of each video, found {tuple(tensor.shape)}"
        )
    return tensor.float().cpu()


def check_finite(
    features: Tensor, raw_geometry: Tensor, valid: Tensor, *, videos_at_once: int = CHECKED_VIDEOS
) -> None:
    """Refuse NaN and infinity in valid crops.

    Raises
    ------
    InvalidInputError
        Names the first videos that hold some.
    """
    broken: list[int] = []
    for begin in range(0, len(features), videos_at_once):
        part = slice(begin, begin + videos_at_once)
        finite = torch.isfinite(features[part]).all(-1).cpu() & torch.isfinite(raw_geometry[part]).all(-1)
        bad = (~finite & valid[part]).any(1)
        broken += (bad.nonzero().squeeze(1) + begin).tolist()
    if broken:
        more = f" and {len(broken) - MAX_NAMED} more" if len(broken) > MAX_NAMED else ""
        raise InvalidInputError(
            "expected finite features and geometry in valid crops, found NaN or infinity in videos "
            f"{', '.join(map(str, broken[:MAX_NAMED]))}{more}; mark those crops in `valid` as False"
        )


def _kind(array: object) -> str:
    return f"an array of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
