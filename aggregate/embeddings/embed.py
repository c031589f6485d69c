"""Video embeddings: what probes, indexes and people read.

Legend: N = videos, V = crops, D = feature channels, d = model width, E = embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from aggregate.data.arrays import Array, as_crops, as_frame_sizes, as_valid, check_finite
from aggregate.data.geometry import derive_geometry
from aggregate.embeddings.whitening import Whitening
from aggregate.network.model import ScaleModel
from pipeline.errors import InvalidInputError
from pipeline.recipe.readout_words import OF_MODELS, ModelReadout


def embedding_dim(model: ScaleModel | None, input_dim: int, readout: ModelReadout) -> int:
    """Return E of a readout (before a whitening drops directions)."""
    if readout == "mean" or model is None:
        return input_dim
    return model.dim if readout == "cls" else input_dim + model.dim


def deal_sets(valid: Tensor, num_sets: int) -> Tensor:
    """Deal the valid crops of each video round-robin into disjoint sets.

    Deterministic, so that an embedding is a function of the stored crops. Crops
    of a grid stand in order of time, so that every set covers the whole video.

    Parameters
    ----------
    valid : Tensor
        (N, V) bool.
    num_sets : int

    Returns
    -------
    Tensor
        (N, S, V) bool: which crops each set sees.
    """
    rank = valid.long().cumsum(1) - 1
    number = torch.arange(num_sets, device=valid.device)
    return valid[:, None] & ((rank % num_sets)[:, None] == number[None, :, None])


@torch.no_grad()
def embed(
    model: ScaleModel,
    features: Array,
    raw_geometry: Array,
    valid: Array | None = None,
    *,
    frame_size_px: Array | None = None,
    readout: ModelReadout = "cls",
    sets: int = 1,
    per_crop: bool = False,
    whitening: Whitening | None = None,
    batch_size: int = 256,
) -> tuple[Tensor, Tensor]:
    """Embed videos with a trained model, with any number of crops.

    Parameters
    ----------
    model : ScaleModel
        On its device; it is put into eval mode.
    features : Tensor or ndarray
        (N, V, D).
    raw_geometry : Tensor or ndarray
        (N, V, 9), `pipeline.storage.schema.GEOMETRY_COLUMNS`.
    valid : optional
        (N, V) bool; None: all.
    frame_size_px : optional
        (N, 2), for models with absolute geometry.
    readout : {"mean", "cls", "joined", "joined_normalised", "whitened"}
        mean: mean of the valid crops' features (E = D). cls: the set token (E = d).
        joined: [mean; cls], as the released code's evaluation. joined_normalised: each of
        length 1 first, so that neither decides by its scale. whitened: `whitening` applied to that.
    sets : int
        Into how many disjoint sets the crops are dealt; set tokens are averaged over the non-empty ones.
    per_crop : bool
        One embedding a crop, f_i = [x_i; CLS of its set] (released code, eval.py), instead of one a video.
    whitening : Whitening, optional
        Required by, and only for, `whitened`; see :func:`aggregate.fit_whitening`.
    batch_size : int
        Videos at a time on the device.

    Returns
    -------
    values : Tensor
        (N, E) float32 on the CPU, or (N, V, E) with `per_crop`. Zeros where not valid.
    valid : Tensor
        (N,) bool, or (N, V).

    Raises
    ------
    InvalidInputError
        If the readout is unknown, `whitening` does not go with it, or valid crops hold NaN.
    ShapeMismatchError
        If the arrays do not fit each other or the model.

    Examples
    --------
    >>> import torch
    >>> from pipeline.recipe import ModelSpec
    >>> model = ScaleModel(8, ModelSpec(dim=16, num_heads=2))
    >>> values, valid = embed(model, torch.randn(3, 5, 8), torch.rand(3, 5, 9), readout="joined")
    >>> values.shape, valid.all().item()
    (torch.Size([3, 24]), True)
    """
    if not isinstance(model, ScaleModel):
        raise InvalidInputError(f"expected a ScaleModel, found {type(model).__name__}; train() returns one as `.model`")
    if readout not in OF_MODELS or sets < 1 or batch_size < 1:
        raise InvalidInputError(
            f"expected a readout of {OF_MODELS}, sets >= 1 and batch_size >= 1, "
            f"found {readout!r}, {sets} and {batch_size}"
        )
    if (readout == "whitened") != (whitening is not None):
        raise InvalidInputError(
            f"expected a whitening exactly for the readout 'whitened', found readout {readout!r} "
            f"{'with' if whitening is not None else 'without'} one; fit it with fit_whitening on training rows"
        )
    x, raw = as_crops(features, raw_geometry, input_dim=model.input_dim)
    mask, size = as_valid(valid, x.shape[:2]), as_frame_sizes(frame_size_px, len(x))
    check_finite(x, raw, mask)
    model.eval()
    device = model.set_cls_token.device
    pieces = []
    for begin in range(0, len(x), batch_size):
        part = slice(begin, begin + batch_size)
        geometry = derive_geometry(
            raw[part], mask[part], frame=model.spec.geometry_frame, frame_size_px=None if size is None else size[part]
        )
        chunk, chunk_valid = x[part].to(device).float(), mask[part].to(device)
        values = _embed_chunk(model, chunk, geometry.to(device), chunk_valid, readout, sets, per_crop)
        if whitening is not None:
            values = whitening.apply(values)
        keep = chunk_valid if per_crop else chunk_valid.any(1)
        pieces.append(torch.where(keep[..., None], values, 0.0).cpu())
    present = mask if per_crop else mask.any(1)
    if not pieces:
        dim = whitening.output_dim if whitening is not None else embedding_dim(model, model.input_dim, readout)
        return torch.zeros(*present.shape, dim), present
    return torch.cat(pieces), present


def _embed_chunk(
    model: ScaleModel, x: Tensor, geometry: Tensor, valid: Tensor, readout: ModelReadout, sets: int, per_crop: bool
) -> Tensor:
    x = torch.where(valid[..., None], x, 0.0)
    mean = x if per_crop else x.sum(1) / valid.sum(1, keepdim=True).clamp_min(1)
    if readout == "mean":
        return mean
    members = deal_sets(valid, sets)  # (n, S, V)
    num_videos, _, num_crops = members.shape
    none = torch.empty(0, dtype=torch.int64, device=x.device)
    token, _ = model(
        x.repeat_interleave(sets, 0),
        geometry.repeat_interleave(sets, 0),
        members.view(-1, num_crops),
        wanted=none,
    )
    token = token.view(num_videos, sets, -1)
    if per_crop:
        cls = (members.mT.to(token.dtype)) @ token  # each crop's own set
    else:
        full = members.any(-1).to(token.dtype)
        cls = (token * full[..., None]).sum(1) / full.sum(1, keepdim=True).clamp_min(1.0)
    if readout == "cls":
        return cls
    if readout == "joined":
        return torch.cat((mean, cls), dim=-1)
    return torch.cat((functional.normalize(mean, dim=-1), functional.normalize(cls, dim=-1)), dim=-1)
