"""One module a crop policy; each registers a function (policy, facts, draws) -> CropDraft, and is found here."""

from extract.crops.policies.base import CropDraft, VideoFacts, draw_draft
from pipeline.recipe.kinds import load_modules

load_modules(__name__)

__all__ = ["CropDraft", "VideoFacts", "draw_draft"]
