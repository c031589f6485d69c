"""Models in the store: weights, configuration and where they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
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


def stream_files(stream: int) -> tuple[str, str]:
    """Return the names of configuration and weights of a stream's network; those of the first are the model's own."""
    return (CONFIG, WEIGHTS) if stream == 0 else (f"config-{stream}.json", f"model-{stream}.safetensors")


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
        if "input_mean" in tensors:
            model.standardise_by(tensors["input_mean"], torch.ones_like(tensors["input_mean"]))
        model.load_state_dict(tensors)
    except (ValueError, KeyError, TypeError, RuntimeError, ValidationError, SafetensorError) as err:
        raise CorruptDataError(f"expected a saved SCALE model, found something else: {err}; train it again") from err
    return model.eval()


def load_model(dataset: Dataset, name: str, stream: int = 0) -> ScaleModel:
    """Load a model of the store, in eval mode, on the CPU.

    Parameters
    ----------
    dataset : pipeline.Dataset
    name : str
    stream : int
        Whose network; a model that has one network reads every feature set with it.

    Raises
    ------
    NotFoundError
        If there is none of this name; lists those that exist.
    CorruptDataError
        If its bytes are not what was saved.
    """
    artifact = dataset.artifact("models", name)
    config, weights = stream_files(stream)
    if weights not in artifact.files:
        config, weights = CONFIG, WEIGHTS
    return decode_model(artifact.read(config), artifact.read(weights))
