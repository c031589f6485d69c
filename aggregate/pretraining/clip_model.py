"""A network on clips with the heads that objectives score: to them it looks like any other encoder of sets.

A set's token is the mean over its clips; a clip's token is what the network says of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from aggregate.data.batch import CropBatch, SetBatch, in_stream, make_set_batch
from aggregate.data.sets import SetIndex, Splitter
from aggregate.network.model import ScaleModel
from aggregate.objectives import EncodedSets
from pipeline.compute.clips import ClipBatch
from pipeline.recipe.pretraining import HeadSpec

NUM_COLUMNS = 7
"""Of the geometry that set transformers see; a backbone sees none of it."""


@dataclass(frozen=True)
class ClipModelSizes:
    """What objectives ask of a network's configuration."""

    projection_dim: int
    geometry: str = "none"


class ClipModel(nn.Module):
    """An encoder and its heads.

    Parameters
    ----------
    encoder : nn.Module
        (N, 3, T, S, S) float -> (N, D).
    dim : int
        D.
    head : HeadSpec
    """

    def __init__(self, encoder: nn.Module, dim: int, head: HeadSpec) -> None:
        super().__init__()
        self.encoder = encoder
        self.dim = self.input_dim = dim
        self.spec = ClipModelSizes(head.projection_dim)
        self.set_head = _head(dim, head)
        self.dense_pred_head = _head(dim, head)
        self.dense_target_head = _head(dim, head)

    def targets(self, features: Tensor) -> Tensor:
        """Return what hidden crops are predicted as."""
        projected: Tensor = self.dense_target_head(features)
        return projected

    def standardised(self, features: Tensor) -> Tensor:
        """Return features as they are."""
        return features

    def forward(self, clips: Tensor, valid: Tensor) -> Tensor:
        """Encode clips.

        Parameters
        ----------
        clips : Tensor
            (B, W, 3, T, S, S).
        valid : Tensor
            (B, W) bool on the CPU.

        Returns
        -------
        Tensor
            (B, W, D); zeros where a clip is not valid.
        """
        flat = clips.flatten(0, 1)
        if bool(valid.all()):
            features: Tensor = self.encoder(flat)
            return features.unflatten(0, valid.shape)
        at = valid.flatten().nonzero().squeeze(1).to(flat.device)
        encoded = self.encoder(flat.index_select(0, at))
        out = encoded.new_zeros((flat.shape[0], encoded.shape[1]))
        return out.index_copy(0, at, encoded).unflatten(0, valid.shape)


def as_set_model(model: ClipModel) -> ScaleModel:
    """Return the model under the type that objectives name; those that ask for more than heads and sizes fail on it."""
    return cast(ScaleModel, model)


class RowNorm(nn.BatchNorm1d):
    """Batch norm over all but the last axis; of fewer than two rows by what it knows from earlier ones."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) < 2:
            return functional.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias).view(
                x.shape
            )
        return super().forward(rows).view(x.shape)


def _head(dim: int, spec: HeadSpec) -> nn.Sequential:
    first, last = nn.Linear(dim, spec.hidden_dim), nn.Linear(spec.hidden_dim, spec.projection_dim)
    if spec.norm == "none":
        return nn.Sequential(first, nn.ReLU(), last)
    return nn.Sequential(first, RowNorm(spec.hidden_dim), nn.ReLU(), last, RowNorm(spec.projection_dim, affine=False))


def deal_clips(features: Tensor, batch: ClipBatch, splitter: Splitter, generator: torch.Generator) -> SetBatch:
    """Deal the encoded clips of videos into sets.

    Parameters
    ----------
    features : Tensor
        (B, W, D) with gradient.
    batch : ClipBatch
        Whose clips they are; its pixels are not looked at.
    splitter : Splitter
    generator : torch.Generator
    """
    pool = CropBatch(
        pool_features=features,
        pool_geometry=features.new_zeros((*features.shape[:2], NUM_COLUMNS)),
        pool_raw_geometry=batch.raw_geometry,
        pool_positions=torch.arange(len(batch)),
        valid=batch.valid,
        video_ids=batch.video_ids,
        group_ids=batch.group_ids,
    )
    sets = splitter(batch.valid, batch.raw_geometry, generator)
    return make_set_batch(pool, sets, torch.zeros_like(sets.valid), features.device)


def encoded_sets(model: ClipModel, sets: SetBatch) -> EncodedSets:
    """Return the sets of a stream as objectives take them."""
    there = sets.valid[..., None]
    features = torch.where(there, sets.features, 0.0)
    means = features.sum(2) / there.sum(2).clamp_min(1)
    return EncodedSets(as_set_model(model), sets, means, features)


def in_other_stream(model: ClipModel, sets: SetBatch, features: Tensor) -> EncodedSets:
    """Return the same sets as another stream shows them; `features` is (B, W, D)."""
    return encoded_sets(model, in_stream(sets, features))


def each_its_own() -> Splitter:
    """Make a set of every clip, in order: for crop policies whose clips have roles (SVT's global and local ones)."""

    def split(valid: Tensor, raw_geometry: Tensor, generator: torch.Generator) -> SetIndex:
        crops = torch.arange(valid.shape[1]).expand(valid.shape)[..., None]
        return SetIndex(torch.where(valid[..., None], crops, 0), valid[..., None], disjoint=True)

    return split
