"""The words of readouts, each once: what stands for a video, and which of three things *joined* means where.

Two vectors of a video, pooled crops and embedding, are put side by side in one of three ways:

- **raw**: as they are; the part with the larger numbers has the larger say. `embed: {readout: joined}` (as the
  released code's evaluation), and `joined` of probes that are trained: they scale every channel themselves.
- **unit**: each of length 1. `embed: {readout: joined_normalised}`, and `whitened`, which is its PCA.
- **equal say**: each centred on training rows and of length 1. `joined` of kNN, retrieval, indexes and search, and the
  parts of every readout that needs no training.
"""

from __future__ import annotations

from typing import Literal, get_args

from pipeline.recipe.base import Name

ProbedReadout = Literal["mean", "cls", "joined", "moments", "sqrt", "std"] | Name
"""What kNN, retrieval and indexes read."""
TrainedReadout = Literal["mean", "crops", "cls", "joined", "moments", "sqrt", "std"] | Name
"""What probes read that are trained."""
ModelReadout = Literal["mean", "cls", "joined", "joined_normalised", "whitened"]
"""What a trained model makes of a video's crops."""
EmbeddedReadout = Literal["cls", "mean", "joined", "joined_normalised", "whitened", "moments", "sqrt", "std"] | Name
"""What `embed` writes back."""

OF_MODELS: tuple[ModelReadout, ...] = get_args(ModelReadout)
OF_CROPS = ("mean", "crops", "attention")
"""Of one feature set alone. crops: each is classified, logits averaged. attention: the attentive probe pools them."""
OF_EMBEDDINGS = ("cls", "joined")
"""Of a probe or an index: read from an embedding set, `joined` with the pooled crops beside it."""
UNTRAINED = ("moments", "sqrt", "std")
"""Computed from one feature set without a model."""
BUILT_IN = (*OF_CROPS, *OF_EMBEDDINGS, *UNTRAINED)
"""Words of probes and indexes; a recipe's own `readouts` have other names."""

IN_WORDS = {
    "mean": "mean of the crops",
    "crops": "each crop, logits averaged",
    "cls": "SCALE embedding",
    "joined": "mean and SCALE embedding",
    "attention": "attention over the crops",
}
"""For pages."""
