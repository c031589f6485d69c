"""Does test look like train? Looked for before any number: same files, shared groups, near-duplicate features."""

from __future__ import annotations

import numpy as np

from probe.data.features import FeatureTable, SplitTable
from probe.maths.exact_search import nearest
from probe.maths.knn import centre
from probe.results import LeakCheck, LeakPair

NUM_PAIRS = 20


def check_leaks(
    split: SplitTable, table: FeatureTable, *, threshold: float, exclude: bool
) -> tuple[LeakCheck, dict[int, str]]:
    """Find each test row's most similar train row.

    Parameters
    ----------
    split : SplitTable
    table : FeatureTable
        Its pooled features are centred by the train mean and normalised.
    threshold : float
        Cosine from which a pair counts as near-duplicate.
    exclude : bool
        Whether the near-duplicate and same-file test rows are to be left out.

    Returns
    -------
    check : LeakCheck
    drop : dict
        Position in the split -> reason, empty unless `exclude`.
    """
    has_features = np.array([not reason for reason in table.reasons])
    train, test = np.flatnonzero(has_features & ~split.is_test), np.flatnonzero(has_features & split.is_test)
    train_groups = {split.groups[i] for i in np.flatnonzero(~split.is_test)}
    shared = train_groups & {split.groups[i] for i in np.flatnonzero(split.is_test)}
    train_files = {split.sha256[i]: int(i) for i in np.flatnonzero(~split.is_test)[::-1] if split.sha256[i]}
    same_file = {int(i) for i in np.flatnonzero(split.is_test) if split.sha256[i] in train_files}
    similarity, nearest_train = np.zeros(len(test)), np.zeros(len(test), np.int64)
    if len(train) and len(test):
        gallery, queries = centre(table.pooled[train], table.pooled[test], "train")
        found = nearest(queries, gallery, 1)
        similarity, nearest_train = found.similarity_QK[:, 0], train[found.index_QK[:, 0]]
    is_near = similarity >= threshold
    drop: dict[int, str] = {}
    if exclude:
        drop = dict.fromkeys(test[is_near].tolist(), "near-duplicate of a train video")
        drop |= dict.fromkeys(same_file, "same file as a train video")
    order = np.argsort(-similarity, kind="stable")[:NUM_PAIRS]
    check = LeakCheck(
        crops=table.crops,
        feature_set=table.feature_set,
        split=split.split,
        threshold=threshold,
        num_test=len(test),
        num_near=int(is_near.sum()),
        num_same_file=len(same_file),
        num_shared_groups=len(shared),
        max_similarity=float(similarity.max(initial=0.0)),
        pairs=tuple(_pair(split, int(test[i]), int(nearest_train[i]), float(similarity[i])) for i in order),
        action="excluded" if exclude else "reported",
    )
    return check, drop


def _pair(split: SplitTable, test: int, train: int, similarity: float) -> LeakPair:
    return LeakPair(
        test_row=int(split.rows[test]),
        test_video=split.video_ids[test],
        train_row=int(split.rows[train]),
        train_video=split.video_ids[train],
        similarity=similarity,
        same_group=split.groups[test] == split.groups[train],
        same_file=bool(split.sha256[test]) and split.sha256[test] == split.sha256[train],
        same_label=bool(set(split.labels[test]) & set(split.labels[train])),
    )
