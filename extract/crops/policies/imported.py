"""Crops that came with imported features cannot be drawn again."""

from __future__ import annotations

from typing import NoReturn

from extract.crops.draws import Draws
from extract.crops.policies.base import VideoFacts, draw_draft
from pipeline.errors import InvalidInputError
from pipeline.recipe.crops import ImportedPolicy


@draw_draft.register
def refuse_imported(policy: ImportedPolicy, facts: VideoFacts, draws: Draws) -> NoReturn:
    """Raise InvalidInputError: nobody knows where these crops were taken."""
    raise InvalidInputError(
        f"expected a crop policy that can be drawn, found imported crops ({policy.source or 'unknown source'}); "
        "define a crop set of your own to extract features for it"
    )
