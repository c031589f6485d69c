"""The stage `train`: a SCALE model from stored features, made again only when something that decides it changed."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aggregate.data.rows import choose_rows, make_source
from aggregate.network.saving import CONFIG, METRICS, ONLINE_WEIGHTS, WEIGHTS, encode_config, encode_weights
from aggregate.training.checkpoint import CheckpointFolder, only_one
from aggregate.training.metrics import JsonLines, MetricsSink, TensorBoard
from aggregate.training.plan import TrainPlan, plan_train
from aggregate.training.trainer import Trainer, TrainResult
from pipeline.compute.devices import pick_device
from pipeline.errors import NotFoundError
from pipeline.events import Note, OnEvent, StageFinished, ignore
from pipeline.recipe import TrainSpec
from pipeline.reports import StageReport
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline import Dataset, FeatureStore


def run_train(plan: TrainPlan, store: FeatureStore, settings: Settings, on_event: OnEvent = ignore) -> StageReport:
    """Train the model of a plan and save it in the store.

    Parameters
    ----------
    plan : TrainPlan
        One that was made before extraction is made again from what the store holds now.
    store : FeatureStore
        Open for writing.
    settings : Settings
        `device`.
    on_event : callable

    Returns
    -------
    StageReport
        `did` counts models_trained, models_skipped and steps; `details` holds the last figures and, for a
        model trained on all rows, ``"rows": "all"``.

    Raises
    ------
    NotFoundError
        If the features do not exist.
    TrainingError
        If the loss becomes non-finite.
    """
    started = time.monotonic()
    spec = plan.recipe.train
    if spec is None:
        return _report(plan, started, {}, trained=0, skipped=0)
    dataset = store.dataset(plan.recipe.dataset.name)
    if plan.content is None or dataset.snapshot(crops=spec.crops, feature_set=spec.backbone) != plan.snapshot:
        plan = plan_train(plan.recipe, store, settings, force=plan.force)
    if plan.content is None:
        raise NotFoundError(
            f"expected features {spec.crops}/{spec.backbone} in dataset {plan.recipe.dataset.name}, found none; "
            "run extract first"
        )
    if plan.is_empty:
        on_event(StageFinished("train", plan.summary(), 0.0))
        return _report(plan, started, _described(spec), trained=0, skipped=1)

    def say_waiting() -> None:
        text = f"another process is training model {spec.name}; waiting for it"
        on_event(Note("train", text, "warning"))

    with only_one(training_folder(store, settings, plan), say_waiting):
        again = plan_train(plan.recipe, store, settings, force=plan.force)
        if again.is_empty:  # the other process has finished it
            return _report(plan, started, _described(spec), trained=0, skipped=1)
        report = _train(plan, spec, dataset, store, settings, started, on_event)
    figures = ", ".join(
        f"{k} {v:.4g}" for k, v in report.details["last"].items() if k.endswith(("loss", "accuracy")) and v is not None
    )
    on_event(StageFinished("train", f"model {spec.name}: {report.did['steps']} steps, {figures}", report.seconds))
    return report


def _train(
    plan: TrainPlan,
    spec: TrainSpec,
    dataset: Dataset,
    store: FeatureStore,
    settings: Settings,
    started: float,
    on_event: OnEvent,
) -> StageReport:
    device = pick_device(settings.device)
    rows = choose_rows(dataset, spec)
    if rows.num_chosen > len(rows.rows):
        left_out = rows.num_chosen - len(rows.rows)
        on_event(Note("train", f"{left_out} of {rows.num_chosen} rows have no features and are left out", "warning"))
    source = make_source(dataset, rows.rows, spec, device)
    folder = training_folder(store, settings, plan)
    sinks: list[MetricsSink] = [JsonLines(folder / METRICS)]
    if settings.tensorboard is not None:
        sinks.append(TensorBoard(settings.tensorboard / plan.recipe.name / spec.name))
    checkpoints = CheckpointFolder(folder, {"content": plan.content, "snapshot": plan.snapshot, "device": device.type})
    result = Trainer(source, spec, device=device, checkpoints=checkpoints, metrics=sinks, on_event=on_event).fit()
    details = _save(dataset, plan, spec, result, source.num_videos, device)
    checkpoints.clear()
    return _report(plan, started, details, trained=1, skipped=0, steps=result.num_steps)


def training_folder(store: FeatureStore, settings: Settings, plan: TrainPlan) -> Path:
    """Return where a training in progress lives: inside a local store, else in the user's cache folder.

    The name holds fingerprint and snapshot, so that only the same training resumes from it.
    """
    assert plan.recipe.train is not None
    key = hashlib.sha256(f"{plan.fingerprint}{plan.snapshot}".encode()).hexdigest()[:16]
    name = f"{plan.recipe.dataset.name}-{plan.recipe.train.name}-{key}"
    local = store.backend.local_path(".training")
    if local is not None:
        return local / name
    place = hashlib.sha256(store.url.encode()).hexdigest()[:16]
    return settings.cache_folder / "training" / place / name


def _save(
    dataset: Dataset, plan: TrainPlan, spec: TrainSpec, result: TrainResult, num_videos: int, device: torch.device
) -> dict[str, Any]:
    weights = encode_weights(result.model)
    files: dict[str, bytes | Path] = {
        WEIGHTS: weights,
        CONFIG: encode_config(result.model),
        METRICS: "".join(json.dumps(r) + "\n" for r in result.history).encode(),
    }
    if result.online is not result.model:
        files[ONLINE_WEIGHTS] = encode_weights(result.online)
    details = {
        **_described(spec),
        "num_videos": num_videos,
        "num_steps": result.num_steps,
        "resumed_from": result.resumed_from,
        "device": str(device),
        "last": dict(result.history[-1]) if result.history else {},
    }
    meta = {
        "recipe": plan.recipe.name,
        "config": spec.model_dump(mode="json"),
        "fingerprint": plan.fingerprint,
        "fingerprint_content": plan.content,
        "snapshot": plan.snapshot,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "versions": {"torch": torch.__version__},
        **details,
    }
    dataset.save_artifact("models", spec.name, files, meta)
    return details


def _described(spec: TrainSpec) -> dict[str, Any]:
    policy = "all" if spec.rows == "all" else "train"
    return {"model": spec.name, "objective": spec.objective.kind, "rows": policy, "split": spec.split}


def _report(
    plan: TrainPlan, started: float, details: dict[str, Any], *, trained: int, skipped: int, steps: int = 0
) -> StageReport:
    return StageReport(
        stage="train",
        recipe=plan.recipe.name,
        did={"models_trained": trained, "models_skipped": skipped, "steps": steps},
        seconds=time.monotonic() - started,
        fingerprint=plan.fingerprint,
        snapshot=plan.snapshot,
        details=details,
    )
