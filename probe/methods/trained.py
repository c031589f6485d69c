"""The results of trained probes on one readout: selected and last epoch, every seed, every share of the labels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.recipe.probes import LinearProbe
from probe.data.readouts import ReadoutData
from probe.found import TrainingFound
from probe.methods.measure import Findings, Setting, classification_result
from probe.methods.registry import Probing, measure_probe
from probe.results import Curve
from probe.trained.convex import MAX_ROWS, PathSpec, num_rows, solve_path
from probe.trained.holdout import balanced_subset
from probe.trained.inputs import MIN_RELATIVE_STD, Input
from probe.trained.training import GridSpec, TrainedProbe, train_grid

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelShare:
    """How many of the train labels a run may use."""

    fraction: float = 1.0
    per_class: int | None = None

    @property
    def is_everything(self) -> bool:
        """Whether no label is left out."""
        return self.fraction == 1.0 and self.per_class is None

    @property
    def parts(self) -> tuple[str, ...]:
        """End of a result's id."""
        if self.per_class is not None:
            return (f"n={self.per_class}",)
        return () if self.is_everything else (f"labels={self.fraction:g}",)


def label_shares(spec: LinearProbe) -> list[LabelShare]:
    """Return the runs that a spec asks for."""
    shares = [LabelShare(fraction) for fraction in dict.fromkeys(spec.fractions)]
    return shares + [LabelShare(per_class=number) for number in dict.fromkeys(spec.per_class)]


def measure_trained(
    spec: LinearProbe,
    data: ReadoutData,
    setting: Setting,
    findings: Findings,
    *,
    device: str = "cpu",
    on_epoch: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Train, and add `selected` and `last` of every seed and share of the labels to the findings."""
    train, test = _inputs(data)
    seeds = tuple(range(spec.seed, spec.seed + spec.num_seeds))
    for share in label_shares(spec):
        if share.is_everything:
            every = np.arange(len(setting.used.train))
            for measured in _measure(spec, train, every, setting, test, seeds, device, on_epoch):
                _keep(spec, data, setting, findings, measured, share, every)
            continue
        for seed in seeds:  # each seed draws labels of its own
            per_class = share.per_class
            rows = balanced_subset(
                setting.train_truth, fraction=None if per_class else share.fraction, per_class=per_class, seed=seed
            )
            for measured in _measure(spec, train, rows, setting, test, (seed,), device, on_epoch):
                _keep(spec, data, setting, findings, measured, share, rows)


@dataclass(frozen=True)
class _Measured:
    """Scores of one seed by one protocol, and what was chosen."""

    seed: int
    protocol: str
    scores_QC: np.ndarray
    selected: dict[str, float | int | str]
    chosen_on: str
    heldout_top1: float | None
    curve_name: Literal["epoch", "penalty"]
    curve: tuple[tuple[float, float], ...]


def _inputs(data: ReadoutData) -> tuple[Input, Input]:
    if data.readout in ("crops", "attention"):
        assert data.table is not None
        assert data.table.values is not None
        sides = (data.used.train, data.used.test)
        train, test = (Input.of(data.table.values[side], data.table.valid[side]) for side in sides)
        return train, test
    is_made_so = data.is_projected or bool(data.joined_dims)
    if data.readout in ("mean", "cls", "joined") or (data.embedding is not None and not is_made_so):
        whole_train, whole_test = data.raw()
        return Input.of(whole_train), Input.of(whole_test)
    # What `embed` joined is centred already, part by part.
    whole_train, whole_test = data.raw() if data.joined_dims else data.equal_say("train")
    if not data.is_projected:  # else the channels have the say that the projection gave them
        dims = data.joined_dims or [part.shape[1] for part in data.parts]
        scale = channel_scale(whole_train, dims, data.say)
        whole_train, whole_test = whole_train * scale, whole_test * scale
    return Input.of(whole_train, is_scaled=True), Input.of(whole_test, is_scaled=True)


def channel_scale(train_ND: np.ndarray, dims: Sequence[int], say: Sequence[float] = ()) -> np.ndarray:
    """Return what to multiply joined channels by: within a part all count the same, and parts by their say.

    Parameters
    ----------
    train_ND : ndarray
        Training rows, parts side by side.
    dims : sequence of int
        Channels of each part.
    say : sequence of float, optional
        What each part counts; none: all the same.

    Returns
    -------
    ndarray of shape (D,), float32
    """
    scales = []
    for own, weight in zip(np.split(train_ND, np.cumsum(dims)[:-1], axis=1), say or (1.0,) * len(dims), strict=True):
        deviation = own.std(axis=0, dtype=np.float64)
        quietest = MIN_RELATIVE_STD * float(np.sqrt(np.square(deviation).mean())) or 1.0
        scales.append(weight / np.maximum(deviation, quietest) / np.sqrt(own.shape[1]))
    return np.concatenate(scales).astype(np.float32)


def _measure(
    spec: LinearProbe,
    train: Input,
    rows: np.ndarray,
    setting: Setting,
    test: Input,
    seeds: tuple[int, ...],
    device: str,
    on_epoch: Callable[[int, int], None],
) -> list[_Measured]:
    if len(rows) != len(train):
        train = train.subset(rows)
    learn = _solve if is_solved(spec, train) else _train
    groups = [setting.train_groups[i] for i in rows]
    return learn(spec, train, setting.train_truth[rows], groups, test, setting.vocabulary.is_multilabel, seeds, device,
                 on_epoch)  # fmt: skip


def is_solved(spec: LinearProbe, train: Input, max_rows: int = MAX_ROWS) -> bool:
    """Whether the probe is solved to its end, and not trained: asked for, or few rows (crops count) to learn from."""
    return spec.may_be_solved and (spec.solver == "lbfgs" or num_rows(train) <= max_rows)


def _solve(
    spec: LinearProbe,
    train: Input,
    truth: np.ndarray,
    groups: list[str],
    test: Input,
    is_multilabel: bool,
    seeds: tuple[int, ...],
    device: str,
    on_fold: Callable[[int, int], None],
) -> list[_Measured]:
    path = PathSpec(tuple(dict.fromkeys(spec.penalties)), spec.holdout_fraction, min(seeds))
    found = solve_path(path, train, truth, groups, test, is_multilabel=is_multilabel, device=device, on_fold=on_fold)
    selected: dict[str, float | int | str] = {"penalty": found.penalty, "solver": "lbfgs"}
    return [
        _Measured(seed, "selected", found.scores_QC, selected, found.chosen_on, found.heldout_top1, "penalty",
                  found.heldout_curve)
        for seed in seeds
    ]  # fmt: skip


def _train(
    spec: LinearProbe,
    train: Input,
    truth: np.ndarray,
    groups: list[str],
    test: Input,
    is_multilabel: bool,
    seeds: tuple[int, ...],
    device: str,
    on_epoch: Callable[[int, int], None],
) -> list[_Measured]:
    grid = GridSpec(
        kind=spec.kind,
        learning_rates=tuple(dict.fromkeys(spec.learning_rates)),
        weight_decays=tuple(dict.fromkeys(spec.weight_decays)),
        seeds=seeds,
        epochs=spec.epochs,
        batch_size=spec.batch_size,
        holdout_fraction=spec.holdout_fraction,
        hidden_dim=spec.hidden_dim,
    )
    trained = train_grid(
        grid, train, truth, groups, test, is_multilabel=is_multilabel, device=device, on_epoch=on_epoch
    )
    return [
        _Measured(one.seed, protocol, scores, _chosen(one, epoch), one.chosen_on, one.heldout_top1, "epoch",
                  one.heldout_curve)
        for one in trained
        for protocol, scores, epoch in (
            ("selected", one.selected_scores_QC, one.epoch),
            ("last", one.last_scores_QC, one.epochs),
        )
    ]  # fmt: skip


def _chosen(trained: TrainedProbe, epoch: int) -> dict[str, float | int | str]:
    return {
        "learning_rate": trained.learning_rate,
        "weight_decay": trained.weight_decay,
        "epoch": epoch,
        "epochs": trained.epochs,
    }


def _keep(
    spec: LinearProbe,
    data: ReadoutData,
    setting: Setting,
    findings: Findings,
    measured: _Measured,
    share: LabelShare,
    rows: np.ndarray,
) -> None:
    is_headline = measured.protocol == "selected" and share.is_everything and measured.seed == spec.seed
    curves: tuple[Curve, ...] = ()
    if is_headline and measured.curve:
        x, accuracies = zip(*measured.curve, strict=True)
        curves = (Curve(name=measured.curve_name, figure="heldout_top1", x=x, y=accuracies),)
    best = measured.scores_QC.argmax(axis=1)
    result, hit = classification_result(
        setting,
        spec.kind,
        measured.scores_QC,
        best,
        parts=(*share.parts, f"seed={measured.seed}", measured.protocol),
        is_headline=is_headline,
        seed=measured.seed,
        train=rows,
        protocol=measured.protocol,
        found=TrainingFound(
            fraction=share.fraction,
            n_per_class=share.per_class,
            selected=measured.selected,
            chosen_on=measured.chosen_on,
            heldout_top1=measured.heldout_top1,
        ),
        curves=curves,
    )
    if all(known.id != result.id for known in findings.results):
        findings.keep(result, setting, hit, best)


@measure_probe.register(LinearProbe)
def _(spec: LinearProbe, probing: Probing) -> None:
    data = probing.data
    what = f"{spec.kind} on {data.readout} of {data.crops}/{data.feature_set}"

    def on_epoch(done: int, total: int) -> None:
        if done == total or done % 10 == 0:
            log.debug("%s: epoch %d of %d", what, done, total)

    measure_trained(spec, data, probing.setting, probing.findings, device=probing.device, on_epoch=on_epoch)
