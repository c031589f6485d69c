"""What a report shows of single videos: a map of the embeddings, and neighbours of sampled test videos."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from probe.data.features import SplitTable
from probe.data.readouts import ReadoutData
from probe.maths.exact_search import Neighbours
from probe.maths.knn import KnnScores
from probe.maths.metrics import hits
from probe.methods.measure import Setting
from probe.results import EmbeddingMap, MapPoint, Neighbour, NeighbourStrip, Video

MAX_POINTS = 2000
MAX_ROWS_FOR_AXES = 4000
NUM_STRIPS = 8
"""Right ones and wrong ones, each."""
NEIGHBOURS_PER_STRIP = 5


def embedding_map(data: ReadoutData, split: SplitTable, *, seed: int) -> EmbeddingMap:
    """Project train-centred unit vectors on their first two principal components.

    Axes are those of at most 4,000 train rows; at most 2,000 rows are drawn, both by `seed`.
    """
    rng = np.random.default_rng(seed)
    train, test = data.equal_say("train")
    basis = train[np.sort(rng.permutation(len(train))[:MAX_ROWS_FOR_AXES])]
    centre = basis.mean(axis=0)
    axes, explained = principal_axes(basis - centre)
    positions = np.concatenate([data.used.train, data.used.test])
    drawn = np.sort(rng.permutation(len(positions))[:MAX_POINTS])
    coordinates = (np.concatenate([train, test])[drawn] - centre) @ axes.T
    return EmbeddingMap(
        crops=data.crops,
        feature_set=data.feature_set,
        readout=data.readout,
        explained=explained,
        points=tuple(
            MapPoint(
                row=int(split.rows[at]),
                video_id=split.video_ids[at],
                label=" ".join(split.labels[at]),
                side="test" if split.is_test[at] else "train",
                x=round(float(x), 5),
                y=round(float(y), 5),
            )
            for at, (x, y) in zip(positions[drawn], coordinates, strict=True)
        ),
    )


def principal_axes(centred_ND: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the two axes of largest variance (2, D) and their shares of it; zeros where there is no variance left.

    Only the two are computed, from the smaller of the two product matrices.
    """
    rows = centred_ND.astype(np.float64)
    total = float(np.square(rows).sum())
    axes, shares = np.zeros((2, rows.shape[1])), [0.0, 0.0]
    is_wide = rows.shape[0] < rows.shape[1]
    gram = rows @ rows.T if is_wide else rows.T @ rows
    values, vectors = scipy.linalg.eigh(gram, subset_by_index=(max(0, len(gram) - 2), len(gram) - 1))
    for i, (value, vector) in enumerate(zip(values[::-1], vectors.T[::-1], strict=True)):
        if value <= 1e-12 * max(total, 1e-300):
            continue
        axis = rows.T @ vector / np.sqrt(value) if is_wide else vector
        # A sign that does not depend on the linear algebra library.
        axes[i] = axis if axis[np.abs(axis).argmax()] > 0 else -axis
        shares[i] = float(value / total)
    return axes.astype(np.float32), (shares[0], shares[1])


def neighbour_strips(
    data: ReadoutData, setting: Setting, neighbours: Neighbours, point: KnnScores, *, seed: int
) -> tuple[NeighbourStrip, ...]:
    """Sample test videos that kNN has right and wrong, with their nearest train videos."""
    split, used = setting.split, data.used
    hit = hits(point.predicted_Q, setting.test_truth)
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for outcome in (True, False):
        among = np.flatnonzero(hit == outcome)
        chosen += sorted(rng.permutation(among)[:NUM_STRIPS].tolist())
    strips = []
    for query in chosen:
        position = int(used.test[query])
        own = set(split.labels[position])
        near = zip(neighbours.index_QK[query], neighbours.similarity_QK[query], strict=True)
        found = tuple(
            Neighbour(
                video=_video(split, int(used.train[index])),
                similarity=float(similarity),
                same_label=bool(own & set(split.labels[int(used.train[index])])),
            )
            for index, similarity in list(near)[:NEIGHBOURS_PER_STRIP]
        )
        strips.append(
            NeighbourStrip(
                crops=data.crops,
                feature_set=data.feature_set,
                readout=data.readout,
                query=_video(split, position),
                predicted=setting.vocabulary.classes[int(point.predicted_Q[query])],
                correct=bool(hit[query]),
                neighbours=found,
            )
        )
    return tuple(strips)


def _video(split: SplitTable, position: int) -> Video:
    return Video(
        row=int(split.rows[position]),
        video_id=split.video_ids[position],
        uri=split.uris[position],
        label=" ".join(split.labels[position]),
    )
