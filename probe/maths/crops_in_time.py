"""How crops lie in their video, as questions with known answers.

Legend: N videos, V crops, D channels, K examples, T times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.storage.schema import GEOMETRY_COLUMNS

START_S, END_S, STRIDE = (GEOMETRY_COLUMNS.index(c) for c in ("start_s", "end_s", "stride"))
MIN_APART_S = 1e-3


@dataclass(frozen=True)
class Examples:
    """Vectors with a known answer.

    Attributes
    ----------
    vectors : ndarray
        (K, E) float32.
    answer : ndarray
        (K,) int64.
    video : ndarray
        (K,) int64: position of the video each is from.
    """

    vectors: np.ndarray
    answer: np.ndarray
    video: np.ndarray


def drawn_pairs(valid_NV: np.ndarray, number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw pairs of different valid crops of each video: video, first and second, (K,) each."""
    rng = np.random.default_rng(seed)
    num_videos, num_crops = valid_NV.shape
    picks = rng.integers(num_crops, size=(num_videos, number, 2))
    video = np.repeat(np.arange(num_videos), number)
    first, second = picks[..., 0].ravel(), picks[..., 1].ravel()
    keep = (first != second) & valid_NV[video, first] & valid_NV[video, second]
    return video[keep], first[keep], second[keep]


def order_examples(
    values_NVD: np.ndarray, valid_NV: np.ndarray, geometry_NVG: np.ndarray, number: int, seed: int
) -> Examples:
    """Return pairs of crops side by side; 1 where the first of them is the earlier one."""
    video, i, j = drawn_pairs(valid_NV, number, seed)
    middle = geometry_NVG[..., START_S] + geometry_NVG[..., END_S]
    apart = middle[video, j] - middle[video, i]
    keep = np.abs(apart) > MIN_APART_S
    video, i, j = video[keep], i[keep], j[keep]
    return Examples(_side_by_side(values_NVD, video, i, j), (apart[keep] > 0).astype(np.int64), video)


def overlap_examples(
    values_NVD: np.ndarray, valid_NV: np.ndarray, geometry_NVG: np.ndarray, number: int, seed: int, bins: int
) -> Examples:
    """Return pairs with their distance; 0 where they do not overlap in time, else 1..bins by their share."""
    video, i, j = drawn_pairs(valid_NV, number, seed)
    a, b = geometry_NVG[video, i], geometry_NVG[video, j]
    shared = np.minimum(a[:, END_S], b[:, END_S]) - np.maximum(a[:, START_S], b[:, START_S])
    shared = np.maximum(shared, 0)
    union = (a[:, END_S] - a[:, START_S]) + (b[:, END_S] - b[:, START_S]) - shared
    share = shared / np.maximum(union, 1e-9)
    answer = np.where(share > 0, np.ceil(share * bins - 1e-6).clip(1, bins), 0).astype(np.int64)
    both = _side_by_side(values_NVD, video, i, j)
    half = both.shape[1] // 2
    return Examples(np.concatenate([both, np.abs(both[:, :half] - both[:, half:])], axis=1), answer, video)


def speed_examples(values_NVD: np.ndarray, valid_NV: np.ndarray, geometry_NVG: np.ndarray) -> Examples:
    """Return single crops; the answer is the rank of their signed stride among all strides."""
    video, crop = np.nonzero(valid_NV)
    strides = geometry_NVG[video, crop, STRIDE]
    answer = np.searchsorted(np.unique(geometry_NVG[..., STRIDE][valid_NV]), strides)
    return Examples(np.asarray(values_NVD[video, crop], np.float32), answer.astype(np.int64), video)


def _side_by_side(values_NVD: np.ndarray, video: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    return np.concatenate([values_NVD[video, i], values_NVD[video, j]], axis=1).astype(np.float32)


def balanced(examples: Examples, seed: int) -> Examples:
    """Keep as many examples of every answer as the rarest has."""
    rng = np.random.default_rng(seed)
    answers, counts = np.unique(examples.answer, return_counts=True)
    number = int(counts.min()) if len(answers) else 0
    kept = [rng.permutation(np.flatnonzero(examples.answer == a))[:number] for a in answers]
    at = np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)
    return Examples(examples.vectors[at], examples.answer[at], examples.video[at])


def course(
    values_VD: np.ndarray, valid_V: np.ndarray, geometry_VG: np.ndarray, centre_D: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a video's course: unit vectors (T, D) of its times in order, places averaged, and the times in 0..1."""
    middle = np.round(((geometry_VG[:, START_S] + geometry_VG[:, END_S]) / 2)[valid_V].astype(np.float64), 6)
    times, index = np.unique(middle, return_inverse=True)
    total = np.zeros((len(times), values_VD.shape[1]))
    np.add.at(total, index, values_VD[valid_V].astype(np.float64) - centre_D)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    span = times[-1] - times[0] if len(times) else 0.0
    return total / np.where(length > 0, length, 1), (times - times[:1]) / (span or 1.0)


def agreement_in_order(a_TD: np.ndarray, b_TD: np.ndarray) -> float:
    """Return the share of pairs of times of `a` whose nearest times in `b` come in the same order; equal ones half.

    Kendall's tau is twice this less 1.
    """
    rank = np.argmax(a_TD @ b_TD.T, axis=1)
    later = np.sign(rank[None, :] - rank[:, None])[np.triu_indices(len(rank), 1)]
    return float((1 + later.mean()) / 2)
