"""Text towers: words into the space of a backbone's features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from extract.backbones.exported import load_program
from extract.backbones.program_archive import read_signature
from extract.backbones.weights import resolve_weights
from pipeline.errors import InvalidInputError, MissingDependencyError, ShapeMismatchError, WeightsError
from pipeline.recipe import WeightsFile
from pipeline.recipe.backbones.text import ProgramFile, TextTower
from pipeline.settings import Settings

if TYPE_CHECKING:
    from torch import nn

INT64 = 5
"""Its code in torch's export schema."""
MAX_TOKENIZER_BYTES = 64 << 20
MAX_CHARACTERS = 10_000
TEXTS_AT_ONCE = 64


class TextEncoder:
    """A text tower in memory. Made by :func:`load_text_tower`.

    Attributes
    ----------
    dim : int or None
        Channels, where the program says so.
    """

    def __init__(self, network: nn.Module, tokenizer: Any, *, dim: int | None) -> None:
        self.dim = dim
        self._network, self._tokenizer = network, tokenizer

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return one vector a text, (N, D) float32, not normalised.

        Raises
        ------
        InvalidInputError
            If a text is empty or longer than 10,000 characters.
        WeightsError
            If the program cannot take what the tokenizer makes.
        """
        import torch

        for text in texts:
            if not text.strip() or len(text) > MAX_CHARACTERS:
                raise InvalidInputError(f"expected words (up to {MAX_CHARACTERS} characters), found {text[:60]!r}")
        parts = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            encoded = self._tokenizer.encode_batch(list(texts[start : start + TEXTS_AT_ONCE]))
            tokens = torch.tensor([one.ids for one in encoded], dtype=torch.int64)
            try:
                with torch.inference_mode():
                    vectors = self._network(tokens)
            except (RuntimeError, AssertionError, IndexError) as err:
                raise WeightsError(
                    f"expected a text tower that takes tokens {tuple(tokens.shape)} up to {int(tokens.max())}, it "
                    f"refuses them ({str(err).strip().splitlines()[0][:200]}); is the tokenizer another network's?"
                ) from err
            parts.append(np.asarray(vectors.float(), np.float32))
        return np.concatenate(parts) if parts else np.zeros((0, self.dim or 0), np.float32)


def load_text_tower(spec: TextTower, settings: Settings) -> TextEncoder:
    """Load a text tower, its files checked first.

    Raises
    ------
    MissingDependencyError
        Without the `tokenizers` library.
    NotFoundError, WeightsError
        If a file is nowhere, another one, or not what it should be.
    ShapeMismatchError
        If the program does not take token numbers.
    """
    path = _found(spec.weights, settings, "a text tower")
    tokenizer = _tokenizer(_found(spec.tokenizer, settings, "the tokenizer of a text tower"))
    signature = read_signature(path)
    if len(signature.input_shape) != 2 or signature.dtype != INT64 or len(signature.output_shape) != 2:
        raise ShapeMismatchError(
            f"{path.name}: expected a program that takes tokens (B, L) as int64 and gives (B, D), found one that takes "
            f"{signature.input_shape} and gives {signature.output_shape}; export it so"
        )
    fixed = signature.input_shape[1]
    if None not in (fixed, spec.num_tokens) and fixed != spec.num_tokens:
        raise ShapeMismatchError(
            f"{path.name}: expected {fixed} tokens, which the program is fixed to, found num_tokens: {spec.num_tokens}"
        )
    length = fixed or spec.num_tokens
    padding = tokenizer.padding or {}
    filled = {"pad_id": padding.get("pad_id", spec.pad_token), "pad_token": padding.get("pad_token", "[PAD]")}
    tokenizer.enable_padding(length=length, **filled)
    if length is not None:
        tokenizer.enable_truncation(length)
    return TextEncoder(load_program(path), tokenizer, dim=signature.output_shape[1])


def _found(file: ProgramFile, settings: Settings, what: str) -> Path:
    return resolve_weights(WeightsFile(path=file.path, sha256=file.sha256), settings, what=what)


def _tokenizer(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as err:
        raise MissingDependencyError(
            "expected the library `tokenizers` for a text tower, found none; pip install 'scale-pipeline[text]'"
        ) from err
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise WeightsError(f"expected a tokenizer of at most {MAX_TOKENIZER_BYTES} bytes at {path}, found more")
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as err:  # the library raises bare exceptions for files that it cannot read
        first_line = (str(err).strip() or type(err).__name__).splitlines()[0]
        raise WeightsError(f"expected a tokenizer.json of the library `tokenizers` at {path}: {first_line}") from err
