"""Training on plain tensors, for notebooks: no store, no recipe file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aggregate.data.arrays import Array
from aggregate.data.loader import CropData, ResidentSource
from aggregate.data.sets import Splitter
from aggregate.objectives import Objective
from aggregate.training.checkpoint import CheckpointFolder
from aggregate.training.trainer import Trainer, TrainResult
from pipeline.compute.devices import pick_device
from pipeline.errors import InvalidInputError
from pipeline.events import OnEvent, ignore
from pipeline.recipe import TrainSpec
from pipeline.recipe.objectives import OBJECTIVES
from pipeline.settings import PROGRESS_S


def train(
    features: Array,
    raw_geometry: Array,
    valid: Array | None = None,
    *,
    video_ids: Array | None = None,
    group_ids: Array | None = None,
    frame_size_px: Array | None = None,
    more_features: Sequence[Array] = (),
    spec: TrainSpec | None = None,
    device: str = "auto",
    checkpoints: str | Path | None = None,
    splitter: Splitter | None = None,
    custom_objective: Objective | None = None,
    on_event: OnEvent = ignore,
    progress_s: float = PROGRESS_S,
    **options: Any,
) -> TrainResult:
    """Train SCALE on the crop features of N videos.

    Defaults are those of the authors' code (SCALE, ICCV 2023, section 3): batch 512,
    200 epochs, AdamW 3e-4, two disjoint sets of 8 crops, mask ratio 0.25.

    Parameters
    ----------
    features : Tensor or ndarray
        (N, V, D) of any real type; float16 stays so until a batch is made, anything else becomes float32.
    raw_geometry : Tensor or ndarray
        (N, V, 9), `pipeline.storage.schema.GEOMETRY_COLUMNS`: seconds and source pixels.
    valid : optional
        (N, V) bool; None: all.
    video_ids, group_ids : optional
        (N,) integers; videos of one source share a group (negatives: no_siblings).
    frame_size_px : optional
        (N, 2) height, width, for ``model={"geometry_frame": "absolute"}``.
    more_features : sequence
        (N, V, D_s) each: the same crops in further streams, for objectives that compare streams.
    spec : TrainSpec, optional
        A complete configuration; else `options` are its fields.
    device : str
        auto, cpu, cuda, cuda:N.
    checkpoints : path, optional
        Folder to save to and to resume from.
    splitter, custom_objective : optional
        Your own, instead of SCALE's.
    progress_s : float
        Seconds between two events about the progress; 0: one a step.
    **options
        Fields of :class:`pipeline.recipe.TrainSpec`: ``epochs=50, batch_size=128,
        objective={"kind": "mcm"}, model={"dim": 128}, seed=1`` ...

    Returns
    -------
    TrainResult
        `.model`, `.history`.

    Raises
    ------
    InvalidInputError
        If an option is unknown or out of range, the device is not there, or an array is not what it should be
        (NaN in a valid crop, ids that are no integers).
    ShapeMismatchError
        If the arrays do not fit each other.
    NoDataError
        With fewer than two videos that have a valid crop.
    TrainingError
        When the loss becomes non-finite, or nothing was ever scored.

    Examples
    --------
    >>> import torch
    >>> x, where = torch.randn(16, 6, 8), torch.rand(16, 6, 9)
    >>> small = {"dim": 16, "num_heads": 2, "head_hidden_dim": 16, "target_hidden_dim": 16, "projection_dim": 8}
    >>> result = train(x, where, epochs=2, batch_size=8, set_size=3, model=small, device="cpu")
    >>> result.num_steps, len(result.history)
    (4, 4)
    """
    if spec is None:
        spec = make_spec(**options)
    elif options:
        raise InvalidInputError(f"expected either spec or options, found both (options: {sorted(options)})")
    place = pick_device(device)
    data = CropData.build(features, raw_geometry, valid, video_ids, group_ids, frame_size_px, more_features)
    source = ResidentSource(data, frame=spec.model.geometry_frame, device=place, seed=spec.seed)
    folder = None
    if checkpoints is not None:
        identity = {"spec": spec.model_dump(mode="json"), "videos": source.num_videos, "dim": source.input_dim}
        folder = CheckpointFolder(Path(checkpoints), identity)
    trainer = Trainer(
        source,
        spec,
        device=place,
        splitter=splitter,
        objective=custom_objective,
        checkpoints=folder,
        on_event=on_event,
        progress_s=progress_s,
    )
    return trainer.fit()


def make_spec(**options: Any) -> TrainSpec:
    """Build a TrainSpec from its fields alone; crop set and backbone are `tensors` where none is named.

    Raises
    ------
    InvalidInputError
        Naming each field that does not fit.
    """
    try:
        return TrainSpec.model_validate({"crops": "tensors", "backbone": "tensors", **options})
    except ValidationError as err:
        problems = "; ".join(f"{_place(e['loc'])}: {e['msg']}" for e in err.errors(include_url=False))
        raise InvalidInputError(f"expected fields of TrainSpec, found {problems}") from err


def _place(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc if part not in OBJECTIVES.own)  # the kind is named in the section
