"""How a probe is measured: one function, told by the section's class.

A file registers with ``@measure_probe.register``; all files of this folder are imported before the first is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatch

import numpy as np

from pipeline.errors import InvalidInputError
from pipeline.recipe.probes import ProbeBase
from probe.data.features import FeatureTable
from probe.data.readouts import ReadoutData
from probe.methods.measure import Findings, Setting

Texts = Callable[[str, Sequence[str]], np.ndarray]
"""(feature set, texts) -> (N, D) float32: a backbone's text tower."""


@dataclass(frozen=True)
class Probing:
    """One readout of one feature set, and where results go."""

    data: ReadoutData
    """The vectors of all rows of the split."""
    setting: Setting
    """Which rows train and test, their classes and groups, and the fields that all results share."""
    findings: Findings
    """Takes the results."""
    device: str
    """What trains, trains there."""
    key: tuple[str, str, str, str]
    """Split, crop set, feature set and readout, for what a report shows once of them."""
    others: Mapping[str, FeatureTable] = field(default_factory=dict)
    """What the probe also reads: feature set -> its features of the same rows."""
    texts: Texts | None = None
    """Words into the space of a feature set's backbone; None where nobody gave that."""


@singledispatch
def measure_probe(spec: ProbeBase, probing: Probing) -> None:
    """Measure one readout and add the results to ``probing.findings``.

    Raises
    ------
    InvalidInputError
        If nobody registered how to measure probes of this kind.
    """
    raise InvalidInputError(
        f"expected code that measures {type(spec).__name__}, found none; register a function with "
        "probe.methods.registry.measure_probe.register, in the module that holds the class"
    )
