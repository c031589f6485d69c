"""Weights of the released SCALE code, taken over by name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from aggregate.network.model import ScaleModel
from pipeline.errors import WeightsError
from pipeline.recipe import ModelSpec

HEAD_DIM = 32
"""The released code always has ``dim / 32`` attention heads."""


def infer_spec(state: Mapping[str, Tensor], *, dropout: float = 0.1) -> tuple[int, ModelSpec]:
    """Read input width and architecture off the shapes of a released state dict.

    Returns
    -------
    input_dim : int
    spec : ModelSpec

    Raises
    ------
    WeightsError
        If a key that decides the architecture is missing.
    """
    try:
        dim, input_dim = state["input_projection.weight"].shape
        num_layers = len({key.split(".")[1] for key in state if key.startswith("transformer.")})
        spec = ModelSpec(
            dim=dim,
            num_layers=num_layers,
            num_heads=dim // HEAD_DIM,
            mlp_ratio=state["transformer.0.mlp.fc1.weight"].shape[0] / dim,
            dropout=dropout,
            head_hidden_dim=state["dense_pred_head.0.weight"].shape[0],
            target_hidden_dim=state["dense_target_head.0.weight"].shape[0],
            projection_dim=state["dense_pred_head.2.weight"].shape[0],
        )
    except KeyError as err:
        raise WeightsError(
            f"expected a state dict of the released SCALE code, found no {err.args[0]!r} in it; "
            f"its keys begin with {sorted(state)[:3]}"
        ) from err
    return input_dim, spec


def load_reference_state_dict(state: Mapping[str, Tensor | Mapping[str, Tensor]]) -> ScaleModel:
    """Build a model from a state dict of the released code.

    Parameters
    ----------
    state : mapping
        Key -> tensor; the whole checkpoint ``{"student": ...}`` and keys with
        the prefix ``module.`` are taken too. Read the file with
        ``torch.load(path, weights_only=True)``.

    Returns
    -------
    ScaleModel
        In training mode, as constructed; same input, weights and mask give
        the released code's outputs and losses (to 1e-5 in float32).

    Raises
    ------
    WeightsError
        If keys are missing, left over, or of other shapes; names them.
    """
    inner = state.get("student", state)
    if not isinstance(inner, Mapping):
        raise WeightsError(f"expected a mapping of tensors under 'student', found {type(inner).__name__}")
    flat = {key.removeprefix("module."): value for key, value in inner.items() if isinstance(value, Tensor)}
    input_dim, spec = infer_spec(flat)
    model = ScaleModel(input_dim, spec)
    own = model.state_dict()
    missing, extra = sorted(own.keys() - flat.keys()), sorted(flat.keys() - own.keys())
    wrong = [
        f"{key}: expected {tuple(own[key].shape)}, found {tuple(flat[key].shape)}"
        for key in sorted(own.keys() & flat.keys())
        if own[key].shape != flat[key].shape
    ]
    if missing or extra or wrong:
        raise WeightsError(
            f"state dict does not fit the released model: missing {missing}, left over {extra}, other shapes {wrong}"
        )
    model.load_state_dict(flat)
    return model
