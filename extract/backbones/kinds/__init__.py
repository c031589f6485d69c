"""One module a kind of backbone; each registers how it is described and built, and is found here."""

from extract.backbones.kinds.registry import info_of, network_of
from pipeline.recipe.kinds import load_modules

load_modules(__name__)

__all__ = ["info_of", "network_of"]
