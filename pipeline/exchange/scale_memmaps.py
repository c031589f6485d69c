"""Features that the released SCALE code extracted: flat `.dat` files without dtype, shape or ids in them.

Layout as in Separius/SCALE, ``src/extract_features.py`` (commit 6fd17b9): ``{ds}_{what}_{variant}.dat`` where `what` is

* ``lbl``: (N,) int16, -1 where the video was never done;
* ``pos``: (N, V, 7) flip, h0, w0, h1, w1, t0, t1, of the features' dtype, NaN where never done;
* a model (``byl``, ``svt``, ``vbf``, ``vsf``, ``vlp``, ``vbp``, ``vbs``): (N, V, D), NaN where never done;

and `variant` is ``lin`` or ``aug`` (training crops) or ``val``. The dtype is float32 unless extraction ran with
``--fp16``; the released reader always assumes float16 and silently reads garbage from the other kind. Here shape and
dtype are given, and the file's size must agree. The pickle beside the files is never opened.

What becomes of the geometry: SCALE wrote boxes and times min-max normalised over the crops of each video, so pixels and
seconds are lost for good. The normalised numbers are stored in the raw columns (start_s, end_s, top_px, left_px,
bottom_px, right_px) and the crop policy says ``geometry: per_video``. Normalising them again gives them back, so what a
model reads is what SCALE's own code would have given it. Flip -1/+1 becomes 0/1; stride and start_frame are 0: unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from pipeline.errors import InvalidInputError, NotFoundError, ShapeMismatchError
from pipeline.exchange.imports import ForeignFeatures, ImportReport, import_features
from pipeline.fingerprint import hash_file
from pipeline.names import check_name
from pipeline.recipe.crops import ImportedPolicy
from pipeline.sets.set_files import check_sizes
from pipeline.storage.schema import GEOMETRY_COLUMNS

if TYPE_CHECKING:
    from pipeline.sets.handles import StoreHandle

MODELS = {
    "byl": "rho-BYOL SlowR50 16x4 (Kinetics-400)",
    "svt": "SVT ViT-B (Kinetics-400, 20 epochs)",
    "vbf": "VideoMAE ViT-B fine-tuned on Kinetics-400",
    "vbp": "VideoMAE ViT-B pre-trained on Kinetics-400",
    "vlp": "VideoMAE ViT-L pre-trained on Kinetics-400",
    "vsf": "VideoMAE ViT-B fine-tuned on Something-Something v2",
    "vbs": "VideoMAE ViT-B pre-trained on Something-Something v2",
}
"""Codes in the released file names."""
SCALE_COLUMNS = ("flip", "top_px", "left_px", "bottom_px", "right_px", "start_s", "end_s")
"""Our column for each of SCALE's seven, in their order."""
Variant = Literal["lin", "aug", "val"]


def import_scale_memmaps(
    store: StoreHandle,
    folder: str | Path,
    *,
    prefix: str,
    model: str,
    variant: Variant,
    num_videos: int,
    num_crops: int,
    dim: int,
    dtype: str,
    dataset: str | None = None,
    crops: str | None = None,
    feature_set: str | None = None,
    video_ids: Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
    shard_rows: int | None = None,
) -> ImportReport:
    """Import one backbone's features of one variant, with labels and geometry.

    Parameters
    ----------
    store : FeatureStore
        Open for writing.
    folder : str or Path
        Where the `.dat` files lie.
    prefix : str
        First part of the file names: ``k400``, ``ucf``, ``hmdb``, ``ssv2``, ``lvu``.
    model : str
        Middle part of the features' file name: ``byl``, ``svt``, ...
    variant : {"lin", "aug", "val"}
        Last part.
    num_videos, num_crops, dim : int
        N, V and D; the pickle's ``db_len`` and ``num_views``, which it is not opened for.
    dtype : {"float16", "float32"}
        Of the features and positions: float16 if extraction ran with ``--fp16 1``.
    dataset, crops, feature_set : str, optional
        Names in the store; `prefix` (``-val`` added for that variant, whose videos are others), `variant` and `model`
        unless given.
    video_ids : sequence of str, optional
        One a video, in the order of the extraction's list. Rows are called ``<dataset>/000000`` and so on otherwise.
    label_names : sequence of str, optional
        Name of each label number; the numbers themselves otherwise.
    shard_rows : int, optional
        For a new dataset.

    Returns
    -------
    ImportReport
        ``rows_non_finite`` counts the videos that extraction never finished (NaN); their crops are masked.

    Raises
    ------
    NotFoundError
        If the features' file is not there.
    ShapeMismatchError
        If a file's size is not shape x dtype; the message says which shapes would fit.
    InvalidInputError
        If an argument cannot be.
    """
    for name in (prefix, model):
        check_name(name)
    if variant not in ("lin", "aug", "val"):
        raise InvalidInputError(f"expected the variant lin, aug or val, found {variant!r}")
    check_sizes(num_crops, dim, dtype)
    if num_videos < 1:
        raise InvalidInputError(f"expected at least 1 video, found {num_videos}")
    folder = Path(folder)
    path = folder / f"{prefix}_{model}_{variant}.dat"
    values = _mapped(path, (num_videos, num_crops, dim), dtype)
    labels = _if_there(folder / f"{prefix}_lbl_{variant}.dat", (num_videos,), "int16")
    boxes = _if_there(folder / f"{prefix}_pos_{variant}.dat", (num_videos, num_crops, len(SCALE_COLUMNS)), dtype)
    dataset = dataset or (f"{prefix}-val" if variant == "val" else prefix)

    def read(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        block = values[positions]
        claimed = np.ones(block.shape[:2], bool)  # NaN where extraction did not finish; the import masks it
        return block, claimed, _geometry(boxes, positions, num_crops)

    source = ForeignFeatures(
        videos=_videos(dataset, num_videos, video_ids, labels, label_names),
        policy=ImportedPolicy(
            policy="imported",
            num_crops=num_crops,
            source=f"scale-memmap {variant}",
            geometry="none" if boxes is None else "per_video",
        ),
        fingerprint={
            "backbone": {"name": model, "description": MODELS.get(model, "")},
            "imported": {"format": "scale-memmap", "variant": variant, "file": path.name, "sha256": hash_file(path)},
            "dtype": dtype,
        },
        num_crops=num_crops,
        dim=dim,
        dtype=dtype,
        read=read,
    )
    return import_features(
        store, source, dataset=dataset, crops=crops or variant, feature_set=feature_set or model, shard_rows=shard_rows
    )


def _mapped(path: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Map a headerless file after its size was held to shape x dtype."""
    if not path.is_file():
        raise NotFoundError(f"expected {path}, found no such file; check folder, prefix, model and variant")
    kind = np.dtype(dtype).newbyteorder("<")
    expected, found = kind.itemsize, path.stat().st_size
    for size in shape:
        expected *= size
    if found != expected:
        raise ShapeMismatchError(
            f"{path.name}: expected {expected} bytes for shape {shape} in {dtype}, "
            f"found {found}{_advice(found, shape, kind)}"
        )
    return np.memmap(path, dtype=kind, mode="r", shape=shape)


def _advice(found: int, shape: tuple[int, ...], kind: np.dtype) -> str:
    """Say what would fit: the mistake is nearly always one of these two."""
    row_bytes = kind.itemsize
    for size in shape[1:]:
        row_bytes *= size
    other = {2: ("float32", 4), 4: ("float16", 2)}.get(kind.itemsize)
    if other and kind.kind == "f" and found * kind.itemsize == row_bytes * shape[0] * other[1]:
        return f": that is the same shape in {other[0]}; pass dtype={other[0]!r}"
    if found % row_bytes == 0:
        return f": it would fit num_videos={found // row_bytes}; check num_videos, num_crops and dim"
    return f": no whole number of rows of {row_bytes} bytes; check num_crops, the last axis and dtype"


def _if_there(path: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray | None:
    return _mapped(path, shape, dtype) if path.is_file() else None


def _geometry(boxes: np.ndarray | None, positions: np.ndarray, num_crops: int) -> np.ndarray:
    """Return SCALE's seven columns in ours; what is not known is 0."""
    geometry = np.zeros((len(positions), num_crops, len(GEOMETRY_COLUMNS)), np.float32)
    if boxes is None:
        return geometry
    scale = boxes[positions].astype(np.float32)
    scale = np.where(
        np.isfinite(scale), scale, 0
    )  # 0/0 where all crops of a video share a start: no extent to speak of
    scale[..., 0] = scale[..., 0] > 0
    for column, name in enumerate(SCALE_COLUMNS):
        geometry[..., GEOMETRY_COLUMNS.index(name)] = scale[..., column]
    return geometry


def _videos(
    dataset: str,
    num_videos: int,
    video_ids: Sequence[str] | None,
    labels: np.ndarray | None,
    label_names: Sequence[str] | None,
) -> pa.Table:
    if video_ids is not None and len(video_ids) != num_videos:
        raise ShapeMismatchError(f"expected {num_videos} video ids, found {len(video_ids)}")
    ids = list(video_ids) if video_ids is not None else [f"{dataset}/{n:06d}" for n in range(num_videos)]
    columns = {"video_id": pa.array(ids, pa.string())}
    if labels is not None:
        numbers = labels.tolist()
        if label_names is not None and max(numbers) >= len(label_names):
            raise ShapeMismatchError(f"expected a name for label {max(numbers)}, found {len(label_names)} names")
        texts = [None if n < 0 else label_names[n] if label_names is not None else str(n) for n in numbers]
        columns["label"] = pa.array(texts, pa.string())
    return pa.table(columns)
