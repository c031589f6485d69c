"""Videos to crop features: the first stage.

Public names are imported when they are used: decoding workers import this
package and must not pay for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "plan_catalog": "extract.catalog.stage",
    "run_catalog": "extract.catalog.stage",
    "ExtractPlan": "extract.run.plan",
    "plan_extract": "extract.run.plan",
    "run_extract": "extract.run.stage",
    "audit": "extract.auditing",
    "draw_crops": "extract.crops.draw",
    "pick_frames": "extract.decoding.frame_picking",
    "open_reader": "extract.decoding.opening",
    "load_backbone": "extract.backbones",
    "describe_backbone": "extract.backbones",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
