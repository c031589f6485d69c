"""Run a model over the sets of a batch, computing only the tokens that will be scored."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from aggregate.data.batch import SetBatch
from aggregate.network.model import ScaleModel
from aggregate.objectives.interface import EncodedSets, TokensNeeded


def encode_sets(
    model: ScaleModel,
    batch: SetBatch,
    *,
    tokens: TokensNeeded = "all",
    masked: bool = True,
    encoder: Callable[..., tuple[Tensor, Tensor]] | None = None,
) -> EncodedSets:
    """Encode every set of a batch.

    Parameters
    ----------
    model : ScaleModel
    batch : SetBatch
    tokens : {"none", "masked", "all"}
        Which contextual tokens to return; the others' last projection and MLP are not computed.
    masked : bool
        False: encode as if nothing were masked (teachers).
    encoder : callable, optional
        The compiled form of `model`.
    """
    num_videos, num_sets, num_crops = batch.shape
    num_rows = num_videos * num_sets
    hide = masked and batch.num_masked > 0
    wanted = None if tokens == "all" else batch.masked_index if tokens == "masked" else batch.masked_index[:0]
    features, geometry = batch.features.flatten(0, 1), batch.geometry.flatten(0, 1)
    valid = None if batch.all_valid else batch.valid.view(num_rows, num_crops)
    hidden = batch.masked.view(num_rows, num_crops) if hide else None
    read = None
    if encoder is None or encoder is model:
        projected = model.project(features, valid)
        read = projected.view(num_videos, num_sets, num_crops, -1)
        set_tokens, kept = model.contextualise(projected, geometry, valid, hidden, wanted)
    else:
        set_tokens, kept = encoder(features, geometry, valid, hidden, wanted)
    if tokens == "all":
        kept = kept.view(num_videos, num_sets, num_crops, -1)
    shown = None if tokens == "none" else kept
    return EncodedSets(model, batch, set_tokens.view(num_videos, num_sets, -1), shown, read)
