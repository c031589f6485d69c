"""Models in the store: weights, configuration and where they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from aggregate.network.model import ScaleModel
from pipeline.errors import CorruptDataError
from pipeline.recipe import ModelSpec

if TYPE_CHECKING:
    from pipeline import Dataset

WEIGHTS, ONLINE_WEIGHTS, CONFIG, METRICS = "model.safetensors", "online.safetensors", "config.json", "metrics.jsonl"


def encode_weights(module: nn.Module) -> bytes:
    """Return a module's parameters as safetensors."""
    return save({name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()})


def encode_config(model: ScaleModel) -> bytes:
    """Return what is needed to build the model, as JSON."""
    content = {"input_dim": model.input_dim, "model": model.spec.model_dump(mode="json")}
    return json.dumps(content, indent=1, sort_keys=True).encode()


def decode_model(config: bytes, weights: bytes) -> ScaleModel:
    """Build a model from what :func:`encode_config` and :func:`encode_weights` left.

    Raises
    ------
    CorruptDataError
        If they are not that, or do not fit each other.
    """
    try:
        content: Mapping[str, Any] = json.loads(config)
        model = ScaleModel(int(content["input_dim"]), ModelSpec.model_validate(content["model"]))
        tensors: dict[str, Tensor] = load(weights)
        model.load_state_dict(tensors)
    except (ValueError, KeyError, TypeError, RuntimeError, ValidationError, SafetensorError) as err:
        raise CorruptDataError(f"expected a saved SCALE model, found something else: {err}; train it again") from err
    return model.eval()


def load_model(dataset: Dataset, name: str) -> ScaleModel:
    """Load a model of the store, in eval mode, on the CPU.

    Parameters
    ----------
    dataset : pipeline.Dataset
    name : str

    Raises
    ------
    NotFoundError
        If there is none of this name; lists those that exist.
    CorruptDataError
        If its bytes are not what was saved.
    """
    artifact = dataset.artifact("models", name)
    return decode_model(artifact.read(CONFIG), artifact.read(WEIGHTS))
