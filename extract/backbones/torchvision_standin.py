"""A stand-in for torchvision, because pytorchvideo imports it for one class that is never used here.

``pytorchvideo.models.head`` says ``from torchvision.ops import RoIAlign`` at
import; only detection heads call it. The package index has no CPU wheel of
torchvision for the torch that is pinned here, and its CUDA wheel beside a CPU
torch raises ``operator torchvision::nms does not exist`` while it is imported.
So, where torchvision is absent or broken, two empty modules take its place
*while pytorchvideo.models is imported*, and are taken away again: other
packages that ask whether torchvision is there still get the true answer.
"""

from __future__ import annotations

import sys
from types import ModuleType

_NAMES = ("torchvision", "torchvision.ops")


class RoIAlign:
    """Raises when somebody builds a detection head."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise NotImplementedError("RoIAlign needs torchvision; detection heads are not part of feature extraction")


def import_pytorchvideo_models() -> ModuleType:
    """Import :mod:`pytorchvideo.models` with the real torchvision if it works, else with the stand-in.

    Raises
    ------
    ImportError
        If pytorchvideo itself is not installed.
    """
    if "pytorchvideo.models.head" not in sys.modules and not _torchvision_works():
        ops = ModuleType("torchvision.ops", "Stand-in: see extract/backbones/torchvision_standin.py")
        ops.RoIAlign = RoIAlign  # type: ignore[attr-defined]
        root = ModuleType("torchvision", ops.__doc__)
        root.ops = ops  # type: ignore[attr-defined]
        sys.modules.update({"torchvision": root, "torchvision.ops": ops})
        try:
            return _import_models()
        finally:
            for name in _NAMES:
                sys.modules.pop(name, None)
    return _import_models()


def _import_models() -> ModuleType:
    import pytorchvideo.models
    import pytorchvideo.models.hub

    return pytorchvideo.models


def _torchvision_works() -> bool:
    try:
        from torchvision.ops import RoIAlign  # noqa: F401
    except Exception:  # a broken torchvision raises RuntimeError, AttributeError or OSError, as it likes
        for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
            del sys.modules[name]
        return False
    return True
