"""Which grid of learning rates and weight decays the linear probe has by default: chosen on train rows alone.

python -m benchmarks.probe_defaults [--store STORE --dataset NAME]     (about ten minutes of one core)

Nested, by group: an outer fold of the train rows plays the test set, `train_grid`
chooses point and epoch on the other rows as it always does. The default is the
grid whose largest loss against the best grid, on any one set, is smallest: a
default has to do for features that nobody has seen yet. The rule written down
before the first run was another: the fewest points within one standard error of
the best mean. It takes the single point, which is a mean's way of overlooking a
set where that rate is too slow (digits); the table says what both rules take.
No test row of any set is read: of the store the train rows of split 1, of
scikit-learn's digits the 900 rows that the oracle test trains on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.datasets import load_digits

from benchmarks._table import write_results
from pipeline import FeatureStore
from probe.data.features import read_embeddings, read_features, read_split
from probe.trained.holdout import group_folds
from probe.trained.inputs import Input
from probe.trained.training import GridSpec, train_grid

OUTER_FOLDS = 4
GRIDS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "the one point SCALE is trained with": ((3e-4,), (1e-4,)),
    "decades from it": ((3e-4, 3e-3, 3e-2), (0.0, 0.1, 1.0)),
    "decades, no decay": ((3e-4, 3e-3, 3e-2), (0.0,)),
    "four decades": ((1e-4, 1e-3, 1e-2, 1e-1), (0.0, 0.01, 0.1, 1.0)),
    "half decades": ((1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), (0.0, 0.1, 1.0, 10.0)),
}
TrainRows = tuple[np.ndarray, np.ndarray, list[str]]
"""Features (N, D), classes (N,), groups (N,)."""


def generated(seed: int, num: int, dim: int, num_classes: int, noise: float, num_factors: int = 24) -> TrainRows:
    """Classes and groups of three in a few hidden factors, seen through a random rectified layer, with noise."""
    rng = np.random.default_rng(seed)
    groups = np.arange(num) // 3
    class_of_group = rng.permutation(np.arange(groups[-1] + 1) % num_classes)
    classes = class_of_group[groups]
    hidden = rng.standard_normal((num_classes, num_factors))[classes]
    hidden = hidden + noise * rng.standard_normal((len(class_of_group), num_factors))[groups]
    hidden += 0.5 * noise * rng.standard_normal(hidden.shape)
    seen = np.maximum(hidden @ rng.standard_normal((num_factors, dim)) / np.sqrt(num_factors), 0)
    return (seen + 0.2 * rng.standard_normal(seen.shape)).astype(np.float32), classes, [str(g) for g in groups]


def train_rows(store: str | None, dataset: str | None) -> Iterator[tuple[str, TrainRows]]:
    yield "generated, 144 x 1,280, 12 classes", generated(0, 144, 1280, 12, 0.9)
    yield "generated, 600 x 256, 30 classes", generated(1, 600, 256, 30, 0.8)
    yield "generated, 300 x 20, 4 classes", generated(2, 300, 20, 4, 1.2, num_factors=8)
    digits = load_digits()
    at = np.random.default_rng(0).permutation(len(digits.target))[:300]  # of the oracle test's 900 train rows
    yield "digits, 300 x 64, 10 classes", (digits.data[at].astype(np.float32), digits.target[at], [str(i) for i in at])
    if store is None:
        return
    ds = FeatureStore.open(store).dataset(dataset or FeatureStore.open(store).datasets()[0])
    split = read_split(ds, "1")
    is_train = ~split.is_test
    classes = np.unique([labels[0] for labels in split.labels], return_inverse=True)[1][is_train]
    groups = [group for group, train in zip(split.groups, is_train, strict=True) if train]
    for crops in ("grid5x3",):
        for feature_set in ds.feature_sets(crops):
            pooled = read_features(ds, split, crops, feature_set).pooled[is_train]
            yield f"train rows of {ds.name}, mean of {crops}/{feature_set}", (pooled, classes, groups)
    for name in ds.embedding_sets():
        yield (
            f"train rows of {ds.name}, embedding {name}",
            (read_embeddings(ds, split, name)[0][is_train], classes, groups),
        )


def outer_accuracies(rows: TrainRows, grid: tuple[tuple[float, ...], tuple[float, ...]]) -> list[float]:
    """Accuracy on each outer fold."""
    x, classes, groups = rows
    targets = np.eye(classes.max() + 1, dtype=bool)[classes]
    folds = group_folds(groups, targets, OUTER_FOLDS, seed=7)
    found = []
    for fold in range(OUTER_FOLDS):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        spec = GridSpec(learning_rates=grid[0], weight_decays=grid[1])
        names = [groups[i] for i in inside]
        probe = train_grid(spec, Input.of(x[inside]), targets[inside], names, Input.of(x[outside]))[0]
        found.append(float((probe.selected_scores_QC.argmax(1) == classes[outside]).mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="a store whose train rows of split 1 are used as well")
    parser.add_argument("--dataset", help="its dataset; by default the first")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sets = list(train_rows(options.store, options.dataset))
    accuracy = np.zeros((len(GRIDS), len(sets), OUTER_FOLDS))
    for s, (name, rows) in enumerate(sets):
        for g, grid in enumerate(GRIDS.values()):
            accuracy[g, s] = outer_accuracies(rows, grid)
        print(name, accuracy[:, s].mean(axis=1).round(3), flush=True)
    flat = accuracy.reshape(len(GRIDS), -1)
    best = flat.mean(axis=1).argmax()
    behind = flat[best] - flat
    error = behind.std(axis=1, ddof=1) / np.sqrt(flat.shape[1])
    points = [len(rates) * len(decays) for rates, decays in GRIDS.values()]
    by_mean = min(np.flatnonzero(behind.mean(axis=1) <= error), key=lambda g: points[g])
    per_set = accuracy.mean(axis=2)
    loss = (per_set.max(axis=0) - per_set).max(axis=1)
    rules = {int(loss.argmin()): "default: smallest largest loss", int(by_mean): "fewest points, by the mean"}
    lines: list[dict[str, object]] = [
        {
            "grid": name,
            "learning rates": ", ".join(f"{rate:g}" for rate in rates),
            "weight decays": ", ".join(f"{decay:g}" for decay in decays),
            **{sets[s][0]: f"{accuracy[g, s].mean():.3f}" for s in range(len(sets))},
            "mean": f"{flat[g].mean():.4f}",
            "behind the best": f"{behind[g].mean():.4f}, standard error {error[g]:.4f}",
            "largest loss on a set": f"{loss[g]:.3f}",
            "taken by": rules.get(g, ""),
        }
        for g, (name, (rates, decays)) in enumerate(GRIDS.items())
    ]
    write_results(
        "probe_defaults",
        "Default grid of the linear probe",
        lines,
        packages=("torch", "numpy", "scikit-learn"),
        notes=[
            f"Accuracy on {OUTER_FOLDS} outer folds of train rows, whole groups; point and epoch chosen inside.",
        ],
    )


if __name__ == "__main__":
    main()
