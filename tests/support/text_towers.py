"""Tiny programs of a backbone and its text tower: colours that words and videos agree on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLOURS = ("red", "green", "blue")
LENGTH = 8


def _saved(path: Path, network: Any, example: tuple[Any, ...], dim: int | None = 0) -> dict[str, str]:
    import torch

    shapes = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(network.eval(), example, dynamic_shapes=shapes), path)
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def colour_backbone(folder: Path) -> dict[str, Any]:
    """Return the recipe section of a backbone whose feature is a crop's mean colour, with a text tower that fits."""
    import torch
    from torch import nn

    class MeanColour(nn.Module):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            return clips.mean(dim=(2, 3, 4))

    class Bag(nn.Module):
        def __init__(self, table: torch.Tensor) -> None:
            super().__init__()
            self.table = nn.Parameter(table)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.table[tokens].sum(dim=1)

    vocabulary = ["[PAD]", "[UNK]", *COLOURS, "a", "video", "of"]
    table = torch.zeros(len(vocabulary), 3)
    table[2:5] = torch.eye(3)
    weights = _saved(folder / "colours.pt2", MeanColour(), (torch.zeros(2, 3, 4, 16, 16),))
    words = _saved(folder / "words.pt2", Bag(table), (torch.zeros(2, LENGTH, dtype=torch.int64),))
    return {
        "kind": "exported", "weights": weights, "num_frames": 4, "size_px": 16, "dtype": "float32",
        "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0],
        "text": {"weights": words, "tokenizer": tokenizer_file(folder / "tokenizer.json", vocabulary)},
    }  # fmt: skip


def tokenizer_file(path: Path, vocabulary: Sequence[str]) -> dict[str, str]:
    """Write a tokenizer of whole words, as the library's own file."""
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(vocabulary)}, "unk_token": "[UNK]"},
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
