"""The text tower of a backbone: words into the space of its features."""

from __future__ import annotations

from pydantic import Field

from pipeline.recipe.base import Spec


class ProgramFile(Spec):
    """A local file whose bytes are known."""

    path: str
    """Looked for as weights are."""
    sha256: str = Field(pattern=r"^[0-9a-fA-F]{64}$")
    """Checked before it is read."""


class TextTower(Spec):
    """Makes text comparable to the features of a backbone that was trained with it (CLIP and its kin)."""

    weights: ProgramFile
    """A ``torch.export`` program (.pt2): token numbers (B, L) int64 -> (B, D), D being the features' channels."""
    tokenizer: ProgramFile
    """A ``tokenizer.json`` of the `tokenizers` library; it says which tokens begin and end a text."""
    num_tokens: int | None = Field(None, ge=1, le=4096)
    """L; None: what the program is fixed to, else as long as the longest text that is asked."""
    pad_token: int = Field(0, ge=0)
    """Number that shorter texts are filled up with, unless the tokenizer's file says another."""
