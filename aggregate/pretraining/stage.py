"""The stage `pretrain`: backbones of one's own, each made again only when its recipe changed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aggregate.pretraining.material import Material, Supply
from aggregate.pretraining.pretrainer import Pretrainer, PretrainResult
from aggregate.pretraining.processes import Processes, join_processes, leave_processes
from aggregate.training.checkpoint import CheckpointFolder, only_one
from aggregate.training.metrics import JsonLines, MetricsSink, TensorBoard
from aggregate.training.stage import training_folder
from aggregate.training.verdict import doubts_about_training
from pipeline.compute.clips import ClipBatch
from pipeline.compute.devices import pick_device
from pipeline.errors import NoDataError
from pipeline.events import Note, OnEvent, StageFinished, ignore
from pipeline.products import ProductPlan, Standing, standing
from pipeline.products.backbone import WEIGHTS_FILE
from pipeline.recipe import PretrainSpec, Recipe
from pipeline.reports import StageReport
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline import FeatureStore

ENCODER_FILE, METRICS_FILE, PICTURE_FILE = "encoder.json", "metrics.jsonl", "first_batch.png"


def run_pretrain(
    plan: ProductPlan, store: FeatureStore, settings: Settings, on_event: OnEvent = ignore, *, supply: Supply
) -> StageReport:
    """Pretrain the backbones of a plan and save them beside the models of the store.

    Under `torchrun` every process calls this; the first one speaks and writes for all.

    Parameters
    ----------
    plan : ProductPlan
    store : FeatureStore
        Open for writing.
    settings : Settings
    on_event : callable
    supply : Supply
        Opens clips and builds networks.

    Returns
    -------
    StageReport
        `did` counts backbones_pretrained, backbones_skipped and steps; `details` describes each under ``backbones``.

    Raises
    ------
    NoDataError
        If nothing is catalogued.
    TrainingError
        If the loss becomes non-finite.
    """
    started = time.monotonic()
    device = pick_device(settings.device)
    processes = join_processes(device)
    if processes.number > 1 and device.type == "cuda":
        device = torch.device("cuda", processes.rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    speak = on_event if processes.is_first else ignore
    described: dict[str, Any] = {}
    made = steps = 0
    try:
        for planned in plan.standings:
            one = _now(planned, store)
            spec = plan.recipe.pretrain[one.product.name]
            details = None
            if not one.is_done:
                details = _alone(one, spec, plan.recipe, store, settings, device, processes, supply, speak)
            if details is not None:
                made, steps = made + 1, steps + details["num_steps"]
            described[one.product.name] = details or {"objective": spec.objective.kind, "rows": spec.rows}
        processes.wait()
    finally:
        leave_processes()
    if not made:
        speak(StageFinished("pretrain", plan.summary(), 0.0))
    return StageReport(
        stage="pretrain",
        recipe=plan.recipe.name,
        did={"backbones_pretrained": made, "backbones_skipped": len(described) - made, "steps": steps},
        seconds=time.monotonic() - started,
        fingerprint=plan.fingerprint,
        snapshot=plan.snapshot,
        details={"backbones": described},
    )


def _now(one: Standing, store: FeatureStore) -> Standing:
    """Return how a planned backbone stands now; asked for again stays so."""
    present = standing(one.product, store)
    if present.content is None:
        raise NoDataError(f"expected videos in dataset {one.product.dataset}, found none; run catalog first")
    return replace(present, is_forced=one.is_forced)


def _alone(
    one: Standing,
    spec: PretrainSpec,
    recipe: Recipe,
    store: FeatureStore,
    settings: Settings,
    device: torch.device,
    processes: Processes,
    supply: Supply,
    on_event: OnEvent,
) -> dict[str, Any] | None:
    """Pretrain one backbone while no other run does; None where another one has finished it meanwhile."""
    if not processes.is_first:  # the first one holds the lock for all
        return _pretrain(one, spec, recipe, store, settings, device, processes, supply, on_event)
    begin = time.monotonic()

    def say_waiting() -> None:
        on_event(Note("pretrain", f"another process is pretraining {one.product.name}; waiting for it", "warning"))

    with only_one(training_folder(store, settings, one), say_waiting):
        if processes.number == 1 and _now(one, store).is_done:
            return None
        details = _pretrain(one, spec, recipe, store, settings, device, processes, supply, on_event)
    figures = ", ".join(
        f"{k} {v:.4g}" for k, v in details["last"].items() if k.endswith(("loss", "accuracy", "top1")) and v is not None
    )
    text = f"backbone {one.product.name}: {details['num_steps']} steps, {details['clips_per_s']:.0f} clips/s, {figures}"
    on_event(StageFinished("pretrain", text, time.monotonic() - begin))
    return details


def _pretrain(
    one: Standing,
    spec: PretrainSpec,
    recipe: Recipe,
    store: FeatureStore,
    settings: Settings,
    device: torch.device,
    processes: Processes,
    supply: Supply,
    on_event: OnEvent,
) -> dict[str, Any]:
    name = one.product.name
    folder = training_folder(store, settings, one)
    dataset = store.dataset(one.product.dataset)
    snapshot = dataset.snapshot()
    material = supply(spec, dataset, settings, device, processes.share)
    checkpoints = CheckpointFolder(folder, {"content": one.content, "device": device.type, "of": processes.number})
    picture = folder / PICTURE_FILE

    def keep_picture(batch: ClipBatch) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(material.picture(batch))

    try:
        trainer = Pretrainer(
            name,
            material.source,
            material.encoders,
            spec,
            device=device,
            processes=processes,
            checkpoints=checkpoints,
            metrics=_sinks(folder, settings, recipe, name) if processes.is_first else (),
            on_first_batch=keep_picture if processes.is_first else None,
            on_event=on_event,
            progress_s=settings.progress_s,
            checkpoint_s=settings.checkpoint_s,
        )
        result = trainer.fit()
        processes.wait()
    finally:
        material.source.close()
    details = _details(spec, result, material, device)
    if processes.is_first:
        _save(one, spec, recipe, store, result, material, picture, {**details, "snapshot": snapshot})
        for text in details["doubts"]:
            on_event(Note("pretrain", f"backbone {name}: {text}", "warning"))
        material.clear()
        checkpoints.clear()
    return details


def _sinks(folder: Path, settings: Settings, recipe: Recipe, name: str) -> Sequence[MetricsSink]:
    sinks: list[MetricsSink] = [JsonLines(folder / METRICS_FILE)]
    if settings.tensorboard is not None:
        sinks.append(TensorBoard(settings.tensorboard / recipe.name / name))
    return sinks


def _details(spec: PretrainSpec, result: PretrainResult, material: Material, device: torch.device) -> dict[str, Any]:
    return {
        "objective": spec.objective.kind,
        "network": spec.encoder.network,
        "streams": list(spec.streams),
        "rows": spec.rows,
        "split": spec.split,
        "num_videos": material.source.num_videos,
        "num_steps": result.num_steps,
        "resumed_from": result.resumed_from,
        "seconds": round(result.seconds, 3),
        "clips_per_s": round(result.num_clips / max(result.seconds, 1e-9), 3),
        "device": str(device),
        "last": dict(result.history[-1]) if result.history else {},
        "chance": result.chance,
        "doubts": list(doubts_about_training(result.history, result.chance)),
    }


def _save(
    one: Standing,
    spec: PretrainSpec,
    recipe: Recipe,
    store: FeatureStore,
    result: PretrainResult,
    material: Material,
    picture: Path,
    details: dict[str, Any],
) -> None:
    weights = material.encode(result.encoder)
    files: dict[str, bytes | Path] = {
        WEIGHTS_FILE: weights,
        ENCODER_FILE: json.dumps(spec.encoder.model_dump(mode="json"), indent=1).encode(),
        METRICS_FILE: "".join(json.dumps(record) + "\n" for record in result.history).encode(),
    }
    if picture.is_file():
        files[PICTURE_FILE] = picture.read_bytes()
    meta = {
        "what": "backbone",
        "recipe": recipe.name,
        "config": spec.model_dump(mode="json"),
        "fingerprint": one.fingerprint,
        "fingerprint_content": one.content,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "versions": {"torch": torch.__version__},
        **details,
    }
    store.dataset(one.product.dataset).save_artifact("models", one.product.name, files, meta)
