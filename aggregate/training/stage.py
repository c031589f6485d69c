"""The stage `train`: a SCALE model from stored features, made again only when something that decides it changed."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aggregate.data.rows import choose_rows, make_source
from aggregate.network.saving import (
    CONFIG,
    METRICS,
    ONLINE_WEIGHTS,
    WEIGHTS,
    encode_config,
    encode_weights,
    stream_files,
)
from aggregate.training.checkpoint import CheckpointFolder, only_one
from aggregate.training.metrics import JsonLines, MetricsSink, TensorBoard
from aggregate.training.trainer import Trainer, TrainResult
from aggregate.training.verdict import doubts_about_training
from pipeline.compute.devices import pick_device
from pipeline.errors import NotFoundError
from pipeline.events import Note, OnEvent, StageFinished, ignore
from pipeline.products import ProductPlan, Standing, standing
from pipeline.recipe import Recipe, TrainSpec
from pipeline.reports import StageReport
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline import Dataset, FeatureStore


def run_train(plan: ProductPlan, store: FeatureStore, settings: Settings, on_event: OnEvent = ignore) -> StageReport:
    """Train the models of a plan and save them in the store.

    Parameters
    ----------
    plan : ProductPlan
        One that was made before extraction is made again from what the store holds now.
    store : FeatureStore
        Open for writing.
    settings : Settings
        `device`.
    on_event : callable

    Returns
    -------
    StageReport
        `did` counts models_trained, models_skipped and steps; `details` describes each model under ``models``: its
        last figures and, for one trained on all rows, ``"rows": "all"``. Of a single model they stand there themselves.

    Raises
    ------
    NotFoundError
        If the features do not exist.
    TrainingError
        If the loss becomes non-finite.
    """
    started = time.monotonic()
    described = {}
    steps = trained = 0
    for planned in plan.standings:
        one = _now(planned, store)
        spec = plan.recipe.trainings[one.product.name]
        details = None if one.is_done else _train_alone(one, spec, plan.recipe, store, settings, on_event)
        if details is not None:
            trained, steps = trained + 1, steps + details["num_steps"]
        described[spec.name] = details if details is not None else _described(spec)
    report = StageReport(
        stage="train",
        recipe=plan.recipe.name,
        did={"models_trained": trained, "models_skipped": len(described) - trained, "steps": steps},
        seconds=time.monotonic() - started,
        fingerprint=plan.fingerprint,
        snapshot=plan.snapshot,
        details=next(iter(described.values())) if len(described) == 1 else {"models": described},
    )
    if not trained:
        on_event(StageFinished("train", plan.summary(), 0.0))
    return report


def _now(one: Standing, store: FeatureStore) -> Standing:
    """Return how a planned model stands now; asked for again stays so."""
    present = standing(one.product, store)
    if present.content is None:
        names = ", ".join(ref.name for ref in one.product.inputs)
        raise NotFoundError(
            f"expected features {names} in dataset {one.product.dataset}, found none; run extract first"
        )
    return replace(present, is_forced=one.is_forced)


def _train_alone(
    one: Standing, spec: TrainSpec, recipe: Recipe, store: FeatureStore, settings: Settings, on_event: OnEvent
) -> dict[str, Any] | None:
    """Train one model while no other process does; None where another one has finished it meanwhile."""
    begin = time.monotonic()

    def say_waiting() -> None:
        text = f"another process is training model {spec.name}; waiting for it"
        on_event(Note("train", text, "warning"))

    with only_one(training_folder(store, settings, one), say_waiting):
        if _now(one, store).is_done:
            return None
        details = _train(one, spec, recipe, store, settings, on_event)
    figures = ", ".join(
        f"{k} {v:.4g}" for k, v in details["last"].items() if k.endswith(("loss", "accuracy")) and v is not None
    )
    text = f"model {spec.name}: {details['num_steps']} steps, {figures}"
    on_event(StageFinished("train", text, time.monotonic() - begin))
    return details


def _train(
    one: Standing, spec: TrainSpec, recipe: Recipe, store: FeatureStore, settings: Settings, on_event: OnEvent
) -> dict[str, Any]:
    dataset = store.dataset(one.product.dataset)
    device = pick_device(settings.device)
    rows = choose_rows(dataset, spec)
    if rows.num_chosen > len(rows.rows):
        left_out = rows.num_chosen - len(rows.rows)
        on_event(Note("train", f"{left_out} of {rows.num_chosen} rows have no features and are left out", "warning"))
    source = make_source(dataset, rows.rows, spec, device, resident_bytes=settings.resident_bytes)
    folder = training_folder(store, settings, one)
    sinks: list[MetricsSink] = [JsonLines(folder / METRICS)]
    if settings.tensorboard is not None:
        sinks.append(TensorBoard(settings.tensorboard / recipe.name / spec.name))
    checkpoints = CheckpointFolder(folder, {"content": one.content, "snapshot": one.snapshot, "device": device.type})
    # Streams beyond those that the objective compares are refused by the recipe.
    trainer = Trainer(
        source,
        spec,
        device=device,
        checkpoints=checkpoints,
        metrics=sinks,
        on_event=on_event,
        progress_s=settings.progress_s,
        checkpoint_s=settings.checkpoint_s,
    )
    result = trainer.fit()
    details = _save(dataset, one, spec, recipe, result, source.num_videos, device)
    for text in details.get("doubts", ()):
        on_event(Note("train", f"model {spec.name}: {text}", "warning"))
    checkpoints.clear()
    return details


def training_folder(store: FeatureStore, settings: Settings, one: Standing) -> Path:
    """Return where a training in progress lives: inside a local store, else in the user's cache folder.

    The name holds fingerprint and snapshot, so that only the same training resumes from it.
    """
    key = hashlib.sha256(f"{one.fingerprint}{one.snapshot}".encode()).hexdigest()[:16]
    name = f"{one.product.dataset}-{one.product.name}-{key}"
    local = store.backend.local_path(".training")
    if local is not None:
        return local / name
    place = hashlib.sha256(store.url.encode()).hexdigest()[:16]
    return settings.cache_folder / "training" / place / name


def _save(
    dataset: Dataset,
    one: Standing,
    spec: TrainSpec,
    recipe: Recipe,
    result: TrainResult,
    num_videos: int,
    device: torch.device,
) -> dict[str, Any]:
    weights = encode_weights(result.model)
    files: dict[str, bytes | Path] = {
        WEIGHTS: weights,
        CONFIG: encode_config(result.model),
        METRICS: "".join(json.dumps(r) + "\n" for r in result.history).encode(),
    }
    for stream, network in enumerate(result.others, start=1):
        config_name, weights_name = stream_files(stream)
        files |= {config_name: encode_config(network), weights_name: encode_weights(network)}
    if result.online is not result.model:
        files[ONLINE_WEIGHTS] = encode_weights(result.online)
    details = {
        **_described(spec),
        "num_videos": num_videos,
        "num_steps": result.num_steps,
        "resumed_from": result.resumed_from,
        "device": str(device),
        "last": dict(result.history[-1]) if result.history else {},
        "chance": result.chance,
        "doubts": list(doubts_about_training(result.history, result.chance)),
    }
    meta = {
        "recipe": recipe.name,
        "config": spec.model_dump(mode="json"),
        "fingerprint": one.fingerprint,
        "fingerprint_content": one.content,
        "snapshot": one.snapshot,
        "reads": one.product.reads(dataset),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "versions": {"torch": torch.__version__},
        **details,
    }
    dataset.save_artifact("models", spec.name, files, meta)
    return details


def _described(spec: TrainSpec) -> dict[str, Any]:
    policy = "all" if spec.rows == "all" else "train"
    return {"model": spec.name, "objective": spec.objective.kind, "rows": policy, "split": spec.split}
