"""From scores of test rows to a `ProbeResult`: accuracy, interval, classes, confusion, and hits kept for pairing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probe.data.features import SplitTable, UsedRows
from probe.maths import metrics
from probe.maths.statistics import bootstrap_interval
from probe.results import ClassResult, NeighbourStrip, ProbeResult

MAX_CLASSES_IN_CONFUSION = 100


@dataclass(frozen=True)
class Vocabulary:
    """The classes of a dataset's split, and the truth of its rows."""

    classes: tuple[str, ...]
    truth: np.ndarray
    """(n, C) bool, order of the split table; no True where a row has no label."""
    is_multilabel: bool

    @classmethod
    def of(cls, split: SplitTable) -> Vocabulary:
        """Collect the sorted labels of both sides."""
        classes = sorted({label for labels in split.labels for label in labels})
        column = {label: i for i, label in enumerate(classes)}
        truth = np.zeros((len(split), len(classes)), bool)
        for row, labels in enumerate(split.labels):
            truth[row, [column[label] for label in labels]] = True
        return cls(tuple(classes), truth, split.is_multilabel)


@dataclass(frozen=True)
class Setting:
    """What all results of one readout share."""

    split: SplitTable
    vocabulary: Vocabulary
    used: UsedRows
    common: Mapping[str, Any]
    """Fields of `ProbeResult`: dataset, split, crops, feature_set, readout, embedding, snapshot ..."""

    @property
    def train_truth(self) -> np.ndarray:
        """(N, C) bool."""
        return self.vocabulary.truth[self.used.train]

    @property
    def test_truth(self) -> np.ndarray:
        """(Q, C) bool."""
        return self.vocabulary.truth[self.used.test]

    @property
    def train_groups(self) -> list[str]:
        """Groups of the train rows used."""
        return [self.split.groups[i] for i in self.used.train]

    @property
    def test_groups(self) -> list[str]:
        """Groups of the test rows used."""
        return [self.split.groups[i] for i in self.used.test]


@dataclass
class Findings:
    """Results, and per-row hits for paired comparisons."""

    results: list[ProbeResult] = field(default_factory=list)
    hits: dict[str, dict[int, bool]] = field(default_factory=dict)
    """Result id -> position in the split -> hit."""
    predictions: dict[str, dict[int, str]] = field(default_factory=dict)
    """Result id -> position -> predicted class."""
    strips: dict[tuple[str, str, str, str], tuple[NeighbourStrip, ...]] = field(default_factory=dict)
    """(split, crop set, feature set, readout) -> sampled test videos with their neighbours."""

    def keep(self, result: ProbeResult, setting: Setting, hit_Q: np.ndarray, predicted_Q: np.ndarray | None) -> None:
        """Add a result with the outcome of each test row."""
        self.results.append(result)
        positions = setting.used.test.tolist()
        self.hits[result.id] = dict(zip(positions, hit_Q.tolist(), strict=True))
        if predicted_Q is not None:
            names = setting.vocabulary.classes
            self.predictions[result.id] = {p: names[c] for p, c in zip(positions, predicted_Q.tolist(), strict=True)}


def result_id(common: Mapping[str, Any], probe: str, *parts: str) -> str:
    """Return the id of a result: what was measured, on what, and the settings that tell it apart."""
    readout = common["readout"] + (f":{common['embedding']}" if common.get("embedding") else "")
    split = "" if common["split"] == "1" else f"split={common['split']}"
    return "/".join(filter(None, (probe, common["crops"], common["feature_set"], readout, split, *parts)))


def classification_result(
    setting: Setting,
    probe: str,
    scores_QC: np.ndarray,
    predicted_Q: np.ndarray,
    *,
    parts: tuple[str, ...],
    is_headline: bool,
    seed: int,
    train: np.ndarray | None = None,
    **fields: Any,
) -> tuple[ProbeResult, np.ndarray]:
    """Measure one set of scores.

    Parameters
    ----------
    setting : Setting
    probe : str
    scores_QC : ndarray of shape (Q, C)
    predicted_Q : ndarray of shape (Q,), int64
    parts : tuple of str
        End of the result's id.
    is_headline : bool
        Whether confusion matrix and classes are filled in.
    seed : int
    train : ndarray, optional
        Indices into the used train rows that were learned from; None: all.
    **fields
        Further fields of `ProbeResult`.

    Returns
    -------
    result : ProbeResult
    hit_Q : ndarray of shape (Q,), bool
    """
    truth, groups = setting.test_truth, setting.test_groups
    train_truth = setting.train_truth if train is None else setting.train_truth[train]
    hit = metrics.hits(predicted_Q, truth)
    coverage = setting.used.coverage
    excluded = sum(coverage.excluded_test.values())
    num_classes = truth.shape[1]
    per_train = train_truth.sum(axis=0)
    multilabel = setting.vocabulary.is_multilabel
    if is_headline:
        accuracy, per_test = metrics.class_accuracy(hit, truth), truth.sum(axis=0)
        fields["per_class"] = tuple(
            ClassResult(
                label=label,
                num_train=int(per_train[c]),
                num_test=int(per_test[c]),
                accuracy=None if np.isnan(accuracy[c]) else float(accuracy[c]),
            )
            for c, label in enumerate(setting.vocabulary.classes)
        )
        if not multilabel and num_classes <= MAX_CLASSES_IN_CONFUSION:
            matrix = metrics.confusion(truth.argmax(axis=1), predicted_Q, num_classes)
            fields["confusion"] = tuple(tuple(line) for line in matrix.tolist())
    result = ProbeResult(
        **{"num_train": len(train_truth), **setting.common, **fields},
        id=result_id(setting.common, probe, *parts),
        probe=probe,
        top1=float(hit.mean()),
        interval=bootstrap_interval(hit, groups, seed=seed),
        top5=float(metrics.top_k_hits(scores_QC, truth, 5).mean()) if num_classes > 5 else None,
        mean_class=metrics.mean_class_accuracy(hit, truth),
        mean_average_precision=metrics.mean_average_precision(scores_QC, truth) if multilabel else None,
        used=len(hit),
        excluded=excluded,
        top1_excluded_wrong=float(hit.sum() / (len(hit) + excluded)),
        num_classes=num_classes,
        num_test_unseen=int((~(truth & (per_train > 0)).any(axis=1)).sum()),
        is_multilabel=multilabel,
        seed=seed,
        is_headline=is_headline,
    )
    return result, hit
