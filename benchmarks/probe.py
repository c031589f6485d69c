"""kNN against chunked torch, a grid of linear probes against one of them, and the probe against scikit-learn.

python benchmarks/probe.py [--short]      (in full: about six minutes and 3 GiB on 2 cores)
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._table import write_results
from probe.inputs import Input
from probe.search import nearest, similarities, unit_vectors
from probe.statistics import bootstrap_interval
from probe.training import GridSpec, train_grid

K = 20
CHUNK = 128
CHECKED_QUERIES = 64


def timed(action: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    value = action()
    return time.perf_counter() - start, value


def torch_knn(queries: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """128 queries a chunk, as the released SCALE code does (src/eval.py)."""
    transposed = torch.from_numpy(gallery).T
    found = [(chunk @ transposed).topk(k, dim=1) for chunk in torch.from_numpy(queries).split(CHUNK)]
    return torch.cat([f.values for f in found]).numpy(), torch.cat([f.indices for f in found]).numpy()


def bench_knn(num_queries: int, num_rows: int, dim: int) -> dict[str, object]:
    rng = np.random.default_rng(0)
    gallery = unit_vectors(rng.standard_normal((num_rows, dim), dtype=np.float32))
    queries = unit_vectors(rng.standard_normal((num_queries, dim), dtype=np.float32))
    nearest(queries[:256], gallery[:2000], K)
    torch_knn(queries[:256], gallery[:2000], K)
    seconds, found = timed(lambda: nearest(queries, gallery, K))
    baseline, theirs = timed(lambda: torch_knn(queries, gallery, K))
    at = rng.permutation(num_queries)[:CHECKED_QUERIES]
    exact = np.argsort(-similarities(queries[at], gallery), axis=1, kind="stable")[:, :K]
    is_exact = bool((found.index_QK[at] == exact).all())  # type: ignore[attr-defined]
    agrees = float((np.sort(theirs[1], 1) == np.sort(found.index_QK, 1)).mean())  # type: ignore[attr-defined, index]
    return {
        "what": f"kNN, {num_queries:,} queries, gallery {num_rows:,} x {dim:,}, k={K}",
        "baseline": f"torch matmul + topk, {CHUNK} queries a chunk: {baseline:.1f} s",
        "ours": f"{seconds:.1f} s",
        "ratio": f"{baseline / seconds:.2f}x faster",
        "wanted": "at least 1.5x faster, exact",
        "check": f"{CHECKED_QUERIES} queries equal to float64 brute force: {is_exact}; "
        f"torch's float32 agrees on {agrees:.4%} of the neighbours",
    }


def bench_grid(num_rows: int, dim: int, num_classes: int, epochs: int) -> dict[str, object]:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((num_classes, dim), dtype=np.float32)
    classes = rng.integers(0, num_classes, num_rows)
    x = (centres[classes] + 6 * rng.standard_normal((num_rows, dim), dtype=np.float32)).astype(np.float32)
    targets = np.eye(num_classes, dtype=bool)[classes]
    groups = [str(i) for i in range(num_rows)]
    one = GridSpec(learning_rates=(1e-3,), weight_decays=(0.1,), epochs=epochs)
    grid = GridSpec(
        learning_rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), weight_decays=(0.0, 0.1, 1.0, 10.0), epochs=epochs
    )
    train, test = Input.of(x), Input.of(x[: num_rows // 10])
    # One thread for both: threads would help the wide product of the grid, not the narrow one, and depend on the load.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    single = min(timed(lambda: train_grid(one, train, targets, groups, test))[0] for _ in range(2))
    whole = timed(lambda: train_grid(grid, train, targets, groups, test))[0]
    torch.set_num_threads(before)
    return {
        "what": f"linear grid, 24 points, {num_rows:,} x {dim:,}, {num_classes} classes, {epochs} epochs",
        "baseline": f"one point: {single:.2f} s",
        "ours": f"24 points: {whole:.2f} s",
        "ratio": f"{whole / single:.1f}x one point",
        "wanted": "at most 4x",
        "check": "chosen on one held-out fold, then trained again on all rows; both counted on both sides",
    }


def bench_accuracy() -> dict[str, object]:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x, y = digits.data[order].astype(np.float32), digits.target[order]
    targets = np.eye(10, dtype=bool)[y]
    train, test = slice(0, 900), slice(900, None)
    scaler = StandardScaler().fit(x[train])
    baseline, model = timed(lambda: LogisticRegression(max_iter=2000).fit(scaler.transform(x[train]), y[train]))
    theirs = model.score(scaler.transform(x[test]), y[test])  # type: ignore[attr-defined]
    groups = [str(i) for i in range(900)]
    seconds, found = timed(
        lambda: train_grid(GridSpec(), Input.of(x[train]), targets[train], groups, Input.of(x[test]))[0]
    )
    hits = found.selected_scores_QC.argmax(1) == y[test]  # type: ignore[attr-defined]
    low, high = bootstrap_interval(hits, [str(i) for i in range(len(hits))])
    return {
        "what": "linear probe on scikit-learn's digits, 900 train, 897 test",
        "baseline": f"LogisticRegression (C=1, standardised): {theirs:.3f} in {baseline:.1f} s",
        "ours": f"{hits.mean():.3f} [{low:.3f}, {high:.3f}], 9 points x 5 folds, in {seconds:.1f} s",
        "ratio": f"{hits.mean() - theirs:+.3f}",
        "wanted": "scikit-learn's accuracy within our interval",
        "check": f"within: {low <= theirs <= high}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a tenth of the sizes; half a minute")
    parser.add_argument("--queries", type=int, default=20_000, help="of the kNN line, unless --short")
    options = parser.parse_args()
    short = options.short
    rows: list[dict[str, object]] = [
        bench_knn(2000, 50_000, 1024) if short else bench_knn(options.queries, 200_000, 1024),
        bench_grid(6000 if short else 20_000, 1024, 12, 3),
        bench_grid(6000, 1024, 100, 1 if short else 3),
        bench_accuracy(),
    ]
    write_results(
        "probe_short" if short else "probe",
        "Probes" + (" (short)" if short else ""),
        rows,
        packages=("torch", "faiss-cpu", "numpy", "scikit-learn"),
        notes=[
            "Every line compares two things measured in one run, on the same threads (kNN: all cores; grids: one).",
            "A grid shares reading, standardising and the width of one matrix product. With many classes that product "
            "fills the machine already for one point, and the grid costs its arithmetic.",
        ],
    )


if __name__ == "__main__":
    main()
