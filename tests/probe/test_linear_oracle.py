"""The linear probe with its default grid on real features of few channels: scikit-learn within the interval."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from probe.maths.statistics import bootstrap_interval
from probe.trained.inputs import Input
from probe.trained.training import GridSpec, train_grid


def test_digits() -> None:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x, y = digits.data[order].astype(np.float32), digits.target[order]
    scaler = StandardScaler().fit(x[:900])
    with threadpool_limits(1):
        oracle = LogisticRegression(max_iter=2000).fit(scaler.transform(x[:900]), y[:900])
        theirs = oracle.score(scaler.transform(x[900:]), y[900:])
    groups = [str(i) for i in range(900)]
    found = train_grid(GridSpec(), Input.of(x[:900]), np.eye(10, dtype=bool)[y[:900]], groups, Input.of(x[900:]))[0]
    hits = found.selected_scores_QC.argmax(1) == y[900:]
    low, high = bootstrap_interval(hits, [str(i) for i in range(len(hits))])
    assert low <= theirs <= high
