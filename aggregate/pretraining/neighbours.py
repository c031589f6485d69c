"""A look at what a network has learned: kNN over training groups that it does not learn from."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from aggregate.pretraining.clip_learner import ClipLearner
from aggregate.training.hooks import Hook, StepDone
from pipeline.compute.clips import ClipSource, LabelledRows
from pipeline.readouts.whitening import knn_hits

MAX_GALLERY = 4000
"""Evenly spread over the rows; decoding more would take longer than it tells."""


class HeldOutLook(Hook):
    """Measures what was learned after some steps, and after the last.

    Parameters
    ----------
    source : ClipSource
    learner : ClipLearner
    every : int
        Steps.
    """

    def __init__(self, source: ClipSource, learner: ClipLearner, every: int) -> None:
        self._source, self._learner, self._every = source, learner, every

    def after(self, step: StepDone) -> None:
        """Look, if it is time."""
        if step.number % self._every and step.number != self._learner.course.total_steps:
            return
        found = knn_accuracy(self._source, self._learner.kept, self._learner.streams[0])
        if found is not None:
            step.more["knn_top1"] = found


def knn_accuracy(source: ClipSource, encode: nn.Module, stream: str) -> float | None:
    """Return the share of held-out videos whose class a weighted vote of their neighbours names.

    Parameters and None as :func:`neighbour_hits`.
    """
    hits = neighbour_hits(source, encode, stream)
    return None if hits is None else float(hits.mean())


def neighbour_hits(source: ClipSource, encode: nn.Module, stream: str) -> np.ndarray | None:
    """Return of every held-out video whether a weighted vote of its neighbours names its class.

    Parameters
    ----------
    source : ClipSource
        Its `held_out` rows are asked for, its `gallery` answers.
    encode : nn.Module
        (clips, valid) -> (B, W, D); a video's vector is the mean over its clips.
    stream : str

    Returns
    -------
    ndarray of shape (n,), bool, or None
        In the order of the held-out rows that have a valid clip; None where nothing is held out, or too little has a
        label.
    """
    if source.held_out is None or source.gallery is None:
        return None
    was_training = encode.training
    encode.eval()
    gallery = _thinned(source.gallery)
    keys, known = _vectors(source, encode, stream, gallery)
    queries, truth = _vectors(source, encode, stream, source.held_out)
    encode.train(was_training)
    if not len(keys) or not len(queries):
        return None
    classes = np.arange(int(max(known.max(), truth.max())) + 1)
    centre = keys.mean(axis=0)
    return knn_hits(keys - centre, known[:, None] == classes, queries - centre, truth[:, None] == classes)


def _thinned(rows: LabelledRows) -> LabelledRows:
    if len(rows.rows) <= MAX_GALLERY:
        return rows
    at = np.linspace(0, len(rows.rows) - 1, MAX_GALLERY).astype(np.int64)
    return LabelledRows(rows.rows[at], rows.labels[at])


@torch.no_grad()
def _vectors(source: ClipSource, encode: nn.Module, stream: str, wanted: LabelledRows) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors and classes of the rows that have a valid clip."""
    vectors, there = [], []
    for batch in source.plain(wanted.rows):
        features = encode(batch.clips[stream], batch.valid).float().cpu()
        counts = batch.valid.sum(1, keepdim=True)
        vectors.append(features.sum(1) / counts.clamp_min(1))
        there.append(counts[:, 0] > 0)
    kept = torch.cat(there).numpy()
    return torch.cat(vectors).numpy()[kept], wanted.labels[kept]
