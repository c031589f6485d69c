"""Questions to crops and to pairs of them: the product's diagnostics, asked of whatever a system makes of a crop.

A network reads every crop alone, as a video of one crop: SCALE's frame of reference then tells it neither when the crop
is nor how long it lasts (all else that it could know of speed and overlap it would be told), so that an answer can only
come from what is seen. Pairs are of one side: two sides share times, but nothing that is seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from aggregate import ScaleModel
from aggregate.data.geometry import derive_geometry
from pipeline.storage.schema import GEOMETRY_COLUMNS
from probe.maths.crops_in_time import Examples, balanced, overlap_examples, speed_examples
from probe.semi.softmax import fit_softmax, probabilities

LEFT_PX = GEOMETRY_COLUMNS.index("left_px")
PAIRS, BINS, L2 = 1000, 4, 1e-3
QUESTIONS = ("speed", "overlap")


@torch.no_grad()
def alone(model: ScaleModel, features: np.ndarray, geometry: np.ndarray) -> np.ndarray:
    """Return what a network makes of every crop that it sees alone: (N, V, D) -> (N, V, d)."""
    x, raw = (torch.from_numpy(a).flatten(0, 1)[:, None] for a in (features, geometry))
    shown = derive_geometry(raw, torch.ones(x.shape[:2], dtype=torch.bool), frame=model.spec.geometry_frame)
    tokens = model.eval()(x, shown)[1]
    return tokens[:, 0].unflatten(0, features.shape[:2]).numpy()


def answered(question: str, crops: Sequence[np.ndarray], geometry: Sequence[np.ndarray]) -> float:
    """Return the share of right answers on the second videos after learning from the first; answers are balanced."""
    train, test = (_examples(question, *side, seed) for seed, side in enumerate(zip(crops, geometry, strict=True)))
    centre, scale = train.vectors.mean(0), train.vectors.std(0).clip(1e-6)
    answers = np.unique(train.answer)
    targets = (train.answer[:, None] == answers).astype(np.float64)
    fitted = fit_softmax((train.vectors - centre) / scale, targets, L2)
    found = answers[probabilities((test.vectors - centre) / scale, fitted).argmax(1)]
    return float((found == test.answer).mean())


def _examples(question: str, crops: np.ndarray, geometry: np.ndarray, seed: int) -> Examples:
    if question == "speed":
        return balanced(speed_examples(crops, np.ones(crops.shape[:2], bool), geometry), seed)
    sides = [geometry[..., LEFT_PX] == left for left in np.unique(geometry[..., LEFT_PX])]
    of = [overlap_examples(crops, here, geometry, PAIRS, seed, BINS) for here in sides]
    vectors, answer, video = (
        np.concatenate(x) for x in zip(*((e.vectors, e.answer, e.video) for e in of), strict=True)
    )
    return balanced(Examples(vectors, answer, video), seed)
