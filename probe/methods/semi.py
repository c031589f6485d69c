"""The results of semi-supervised methods: the same draws of labels for all of them, every share and seed."""

from __future__ import annotations

import numpy as np

from pipeline.recipe.kinds import load_modules
from pipeline.recipe.probes.semi import SemiProbe
from probe.data.readouts import ReadoutData
from probe.found import TrainingFound
from probe.maths.knn import centre
from probe.methods.measure import Setting, classification_result
from probe.methods.registry import Probing, measure_probe
from probe.methods.trained import LabelShare
from probe.results import Curve
from probe.semi.task import METHODS, Task
from probe.trained.holdout import balanced_subset

load_modules("probe.semi")


@measure_probe.register(SemiProbe)
def measure_semi(spec: SemiProbe, probing: Probing) -> None:
    """Add one result a method, share of the labels and seed; the headline has the curve over shares."""
    shares = [LabelShare(f) for f in dict.fromkeys(spec.fractions)]
    shares += [LabelShare(per_class=n) for n in dict.fromkeys(spec.per_class)]
    setting = probing.setting
    for name in dict.fromkeys(spec.methods):
        points: list[tuple[float, float]] = []
        for number, share in enumerate(shares):
            accuracy = []
            for seed in range(spec.seed, spec.seed + spec.num_seeds):
                rows = balanced_subset(
                    setting.train_truth, fraction=None if share.per_class else share.fraction,
                    per_class=share.per_class, seed=seed,
                )  # fmt: skip
                scores = METHODS[name](_task(spec, probing.data, setting, rows, seed))
                is_headline = seed == spec.seed + spec.num_seeds - 1 and number == len(shares) - 1
                result, hit = classification_result(
                    setting, "semi", scores, scores.argmax(1), parts=(name, *share.parts, f"seed={seed}"),
                    is_headline=is_headline, seed=seed, train=rows, protocol=name,
                    found=TrainingFound(fraction=share.fraction, n_per_class=share.per_class), num_train=len(rows),
                    figures={"unlabelled": float(len(setting.used.train) - len(rows))},
                )  # fmt: skip
                accuracy.append(result.top1)
                if is_headline:
                    x, y = zip(
                        *points, (len(rows) / setting.train_truth.shape[1], float(np.mean(accuracy))), strict=True
                    )
                    result = result.model_copy(update={"curves": (Curve(name="labels", figure="top1", x=x, y=y),)})
                probing.findings.keep(result, setting, hit, scores.argmax(1))
            points.append((len(rows) / setting.train_truth.shape[1], float(np.mean(accuracy))))


def _task(spec: SemiProbe, data: ReadoutData, setting: Setting, rows: np.ndarray, seed: int) -> Task:
    train, test = data.equal_say("train")
    used = data.used
    parts = tuple(centre(part[used.train], part[used.test], "train") for part in data.parts)
    crops = None
    if data.readout == "mean" and data.table is not None and data.table.values is not None:
        crops = (data.table.values[used.train].astype(np.float32), data.table.valid[used.train])
    return Task(spec, train, test, rows, setting.train_truth[rows], parts, crops, seed)
