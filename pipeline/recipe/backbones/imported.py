"""Networks that nobody here has: their features were imported."""

from __future__ import annotations

from typing import Literal

from pipeline.recipe.backbones.base import BackboneBase


class ImportedBackbone(BackboneBase):
    """Features that `scale import` brought: there to be read, never extracted."""

    kind: Literal["imported"]
