"""Probes: features and embeddings in, numbers a reviewer would trust out; and the search index.

What needs torch or FAISS is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PLACES = {
    "ProbeReport": "probe.results",
    "ProbeResult": "probe.results",
    "open_index": "probe.index.stage",
    "plan_index": "probe.index.stage",
    "plan_probe": "probe.stage",
    "read_report": "probe.stage",
    "render_report": "probe.pages.report",
    "run_index": "probe.index.stage",
    "run_probe": "probe.stage",
    "search_index": "probe.index.stage",
}

__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _PLACES:
        raise AttributeError(f"module 'probe' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
