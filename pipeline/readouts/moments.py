"""What the crops of a video say beyond their mean: how features move over time, and how much they vary.

Legend: N = videos, V = crops, D = channels, K = cosines, P = places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from pipeline.errors import ShapeMismatchError
from pipeline.storage.schema import GEOMETRY_COLUMNS

START_S, END_S = GEOMETRY_COLUMNS.index("start_s"), GEOMETRY_COLUMNS.index("end_s")
PLACE = [GEOMETRY_COLUMNS.index(c) for c in ("top_px", "left_px", "bottom_px", "right_px", "flip", "stride")]
MIN_SEEN = 0.02
"""A direction of time of which the crops see less than this share of what a regular grid shows is left out."""
MAX_BLOCK_BYTES = 256 << 20


def moments(
    values_NVD: np.ndarray, valid_NV: np.ndarray, geometry_NVG: np.ndarray, *, num_cosines: int = 2
) -> dict[str, np.ndarray]:
    """Return the parts `mean`, `cos1` .. `cosK` and `std`, each (N, D) float32.

    Crops of one box, flip and stride are a *place*; a place's crops in order of time are a sequence. With the time
    ``u`` of a crop in (0, 1) over the video's crops, ``cos_k`` is the least-squares coefficient of ``cos(pi k u)`` next
    to one constant a place: on regular times the k-th DCT-II coefficient (times 2 / V), and on irregular or missing
    times still exact for every signal that these cosines can write. `std` is the deviation from each place's mean.
    Where places have no second time (random crops), all crops of a video are one sequence.

    Parameters
    ----------
    values_NVD : ndarray
        As stored; what lies under an invalid crop is never read.
    valid_NV : ndarray, bool
    geometry_NVG : ndarray
        Raw geometry. Crops that were planned and could not be had still say where the video's time begins and ends.
    num_cosines : int, default 2

    Raises
    ------
    ShapeMismatchError
        If the arrays do not fit each other.
    """
    if values_NVD.ndim != 3 or values_NVD.shape[:2] != valid_NV.shape or geometry_NVG.shape[:2] != valid_NV.shape:
        raise ShapeMismatchError(
            f"expected values (N, V, D), valid (N, V) and geometry (N, V, G), "
            f"found {values_NVD.shape}, {valid_NV.shape} and {geometry_NVG.shape}"
        )
    num_videos, _, dim = values_NVD.shape
    names = ["mean", *(f"cos{k}" for k in range(1, num_cosines + 1)), "std"]
    parts = {name: np.zeros((num_videos, dim), np.float32) for name in names}
    for at in _blocks(values_NVD.shape):
        valid = np.asarray(valid_NV[at], bool)
        x = np.where(valid[..., None], values_NVD[at], 0).astype(np.float32)
        geometry = np.asarray(geometry_NVG[at], np.float64)
        member_NPV = place_members(valid, geometry)
        count_N = np.maximum(valid.sum(1), 1)[:, None]
        parts["mean"][at] = np.einsum("nvd,nv->nd", x, valid.astype(np.float32)) / count_N
        weights_NKV = cosine_weights(member_NPV, geometry, num_cosines).astype(np.float32)
        for k in range(num_cosines):
            parts[f"cos{k + 1}"][at] = np.einsum("nvd,nv->nd", x, weights_NKV[:, k])
        size_NP = np.maximum(member_NPV.sum(2), 1)[..., None]
        share = member_NPV.astype(np.float32)
        place_means = np.matmul(share, x) / size_NP.astype(np.float32)
        residual = x - np.matmul(share.transpose(0, 2, 1), place_means)  # 0 under invalid crops: they are in no place
        parts["std"][at] = np.sqrt(np.einsum("nvd,nvd->nd", residual, residual) / count_N)
    return parts


def place_members(valid_NV: np.ndarray, geometry_NVG: np.ndarray) -> np.ndarray:
    """Return which valid crops form a sequence, (N, P, V) bool.

    A video whose places mostly hold a single time has one sequence of all its crops.
    """
    num_videos, num_crops = valid_NV.shape
    where = np.ascontiguousarray(geometry_NVG[..., PLACE], np.float64) + 0.0  # -0.0 and 0.0 are the same box
    first_NV = np.zeros((num_videos, num_crops), np.int64)
    for n in range(num_videos):
        rows = where[n].view([("", np.float64)] * len(PLACE))[:, 0]
        first_NV[n] = np.unique(rows, return_inverse=True)[1].reshape(-1)
    members = first_NV[:, None, :] == np.arange(first_NV.max(initial=0) + 1)[None, :, None]
    members &= valid_NV[:, None, :]
    size_NP = members.sum(2)
    in_sequences_N = np.where(size_NP > 1, size_NP, 0).sum(1)
    alone_N = 2 * in_sequences_N < valid_NV.sum(1)
    members[alone_N] = False
    members[alone_N, 0] = valid_NV[alone_N]
    return members[:, members.any((0, 2))] if members.any() else members[:, :1]


def crop_times(geometry_NVG: np.ndarray) -> np.ndarray:
    """Return every crop's time in (0, 1) over the video's planned crops, (N, V) float64; 0.5 where there is one time.

    n regular times lie at ``(i + 1/2) / n``, as the DCT-II has them.
    """
    start, end = geometry_NVG[..., START_S], geometry_NVG[..., END_S]
    planned = end > start
    middle = (start + end) / 2
    first = np.min(middle, axis=1, where=planned, initial=np.inf)
    last = np.max(middle, axis=1, where=planned, initial=-np.inf)
    span = np.where(np.isfinite(last - first), last - first, 0.0)
    first = np.where(np.isfinite(first), first, 0.0)
    ordered = np.sort(np.where(planned, middle, np.inf), axis=1)
    with np.errstate(invalid="ignore"):
        steps = np.diff(ordered, axis=1)
    num_times = 1 + (np.isfinite(steps) & (steps > 1e-6 * np.maximum(span, 1e-9)[:, None])).sum(1)
    step = span / np.maximum(num_times - 1, 1)
    return np.where(
        (planned & (span > 0)[:, None]),
        (middle - first[:, None] + step[:, None] / 2) / np.maximum(span + step, 1e-12)[:, None],
        0.5,
    )


def cosine_weights(member_NPV: np.ndarray, geometry_NVG: np.ndarray, num_cosines: int) -> np.ndarray:
    """Return what each crop counts in each cosine coefficient, (N, K, V) float64; zero for invalid crops.

    The pseudo-inverse of the cosines, centred in each place. Directions that the times hardly show are left out
    instead of amplified: two near-equal times say nothing about the rest of a video.
    """
    phase = np.pi * crop_times(geometry_NVG)[:, None, :]
    basis_NKV = np.cos(np.arange(1, num_cosines + 1)[None, :, None] * phase)
    member = member_NPV.astype(np.float64)
    size_NP = np.maximum(member.sum(2), 1)
    means_NKP = np.matmul(basis_NKV, member.transpose(0, 2, 1)) / size_NP[:, None, :]
    centred = (basis_NKV - np.matmul(means_NKP, member)) * member.sum(1)[:, None, :]
    gram_NKK = np.matmul(centred, centred.transpose(0, 2, 1))
    values, vectors = np.linalg.eigh(gram_NKK)
    seen = values > MIN_SEEN * np.maximum(member.sum((1, 2)), 1)[:, None] / 2
    inverse = np.where(seen, 1.0 / np.where(seen, values, 1.0), 0.0)
    return np.matmul(np.matmul(vectors * inverse[:, None, :], vectors.transpose(0, 2, 1)), centred)


def signed_sqrt(values: np.ndarray) -> np.ndarray:
    """Return ``sign(x) sqrt(|x|)``: large channels say less, as in Fisher vectors."""
    return np.sign(values) * np.sqrt(np.abs(values))


def take_parts(parts: Mapping[str, np.ndarray], wanted: tuple[str, ...]) -> list[np.ndarray]:
    """Return the wanted parts in their order; `cosines` stands for all of them, `sqrt` for the mean's signed root."""
    found: list[np.ndarray] = []
    for name in wanted:
        if name == "cosines":
            found += [parts[key] for key in parts if key.startswith("cos")]
        else:
            found.append(signed_sqrt(parts["mean"]) if name == "sqrt" else parts[name])
    return found


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices of videos whose float32 crops stay within bounds, squares of crops included."""
    per_video = 4 * shape[1] * (shape[2] + 8 * min(shape[1], 512))
    size = max(1, MAX_BLOCK_BYTES // max(per_video, 1))
    for begin in range(0, shape[0], size):
        yield slice(begin, begin + size)
