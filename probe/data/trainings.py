"""How the models behind the measured embeddings were trained: the figures that training left beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pipeline.errors import PipelineError
from pipeline.store.artifacts import model_with_weights
from probe.results import Training

if TYPE_CHECKING:
    from pipeline import Dataset
    from pipeline.store.artifacts import Artifact

METRICS_FILE = "metrics.jsonl"
MAX_POINTS = 240


def read_trainings(ds: Dataset, embeddings: Iterable[str]) -> tuple[Training, ...]:
    """Return the trainings behind embedding sets, each once; a version that was pruned or cannot be read is left out.

    Parameters
    ----------
    ds : Dataset
    embeddings : iterable of str
        Names of embedding sets.
    """
    made_by = [ds.embedding_info(name).fingerprint.get("model") for name in embeddings]
    models = [(str(m["name"]), str(m["weights_sha256"])) for m in made_by if isinstance(m, Mapping)]
    found = (model_with_weights(ds.backend, ds.name, *model) for model in dict.fromkeys(models))
    return tuple(_training(one) for one in found if one is not None)


def _training(model: Artifact) -> Training:
    steps, losses = _curve(model)
    every = max(1, -(-len(steps) // MAX_POINTS))
    kept = sorted({*range(0, len(steps), every), len(steps) - 1}) if steps else []
    chance = model.meta.get("chance")
    return Training(
        model=model.name,
        objective=str(model.meta.get("objective", "")),
        num_steps=int(model.meta.get("num_steps") or 0),
        steps=tuple(steps[i] for i in kept),
        loss=tuple(losses[i] for i in kept),
        chance=None if chance is None else float(chance),
        doubts=tuple(map(str, model.meta.get("doubts", ()))),
    )


def _curve(model: Artifact) -> tuple[list[float], list[float]]:
    """Return steps and losses; nothing where they are gone: a report needs them no more than a model does."""
    try:
        records = [json.loads(line) for line in model.read(METRICS_FILE).splitlines() if line.strip()]
        pairs = [(float(r["step"]), float(r["loss"])) for r in records if r.get("loss") is not None]
    except (PipelineError, ValueError, KeyError, TypeError, AttributeError):
        return [], []
    return [step for step, _ in pairs], [loss for _, loss in pairs]
