"""From a recipe's backbone to a :class:`Backbone` on a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from extract.backbones.interface import Backbone, BackboneInfo
from extract.backbones.kinds import info_of, network_of
from extract.backbones.optimising import optimise
from extract.backbones.weights import resolve_weights
from pipeline.errors import NotFoundError, ShapeMismatchError
from pipeline.events import OnEvent, ignore
from pipeline.recipe import BackboneSpec, NamedWeights, RandomWeights, WeightsFile
from pipeline.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import nn


def describe_backbone(spec: BackboneSpec, settings: Settings) -> BackboneInfo:
    """Describe a backbone without building it: what a plan and a fingerprint need.

    The weights file is found and hashed.

    Parameters
    ----------
    spec : BackboneSpec
    settings : Settings
        Says where weights lie.

    Raises
    ------
    NotFoundError
        If the weights file is nowhere.
    WeightsError
        If its hash differs from the recipe's.
    """
    return _describe(spec, settings)[0]


def load_backbone(
    spec: BackboneSpec,
    settings: Settings,
    device: torch.device | str = "cpu",
    expected_crops: int | None = None,
    on_event: OnEvent = ignore,
    as_before: str | None = None,
) -> Backbone:
    """Build a backbone, load its weights and make it fast for the device.

    Parameters
    ----------
    spec : BackboneSpec
    settings : Settings
        Says where weights lie.
    device : torch.device or str
    expected_crops : int, optional
        How many crops it is going to see: converting or compiling takes its
        time and is done, at the first call for each size of crop, only where
        that many crops repay it. None: never; see :func:`extract.backbones.optimise`.
    on_event : callable
        Gets a Note about what was done for speed.
    as_before : {"openvino", "compiled", "plain"}, optional
        How the features were made that stand beside those to come: then the same is done again, whatever this machine
        has to do meanwhile. None: there are none.

    Returns
    -------
    Backbone

    Raises
    ------
    NotFoundError, WeightsError
        As :func:`describe_backbone`; also if keys or shapes do not fit.
    MissingDependencyError
        If an optional package is needed.
    """
    import torch

    from extract.backbones.tuning import tuned, use_python_ints

    info, path = _describe(spec, settings)
    device = torch.device(device)

    def build() -> nn.Module:
        return use_python_ints(network_of(spec, info, path).requires_grad_(False))

    network = build()
    if info.sound is None:  # what hears is small, and tuning tries a network out on pixels
        network = tuned(network, info, device.type)
    return Backbone(
        info,
        network.to(device),
        dim=info.dim if info.dim is not None else _measure_dim(network, info),
        device=device,
        autocast=None if device.type == "cpu" or spec.precision == "float32" else spec.precision,
        before_size=None
        if expected_crops is None or info.sound is not None
        else _faster_where_it_pays(expected_crops, on_event, torch.get_num_threads()),
        build=build,
        as_before=as_before,
    )


def _faster_where_it_pays(
    num_crops: int, on_event: OnEvent, num_streams: int
) -> Callable[[Backbone, tuple[int, ...]], object]:
    def decide(backbone: Backbone, shape: tuple[int, ...]) -> object:
        return optimise(backbone, shape, num_crops, on_event, num_streams=num_streams)

    return decide


def _of_the_name(weights: WeightsFile | NamedWeights | RandomWeights) -> WeightsFile | RandomWeights:
    """Return the file that a name stands for on this machine; what is no name as it is."""
    if not isinstance(weights, NamedWeights):
        return weights
    from extract.backbones.weights_lock import locked

    entry = locked(weights.name)
    return WeightsFile(path=str(entry.path), sha256=entry.sha256, network=weights.network)


def _describe(spec: BackboneSpec, settings: Settings) -> tuple[BackboneInfo, Path | None]:
    given = spec.weights
    if given is None:
        raise NotFoundError(
            f"expected the file of the pretrained backbone {getattr(spec, 'model', '')}, found only its name; "
            "it is known where the dataset is: extract with a recipe, or give its file under `weights`"
        )
    weights: WeightsFile | RandomWeights = _of_the_name(given)
    path = None
    if isinstance(weights, WeightsFile):
        path = resolve_weights(weights, settings, what=f"the {spec.kind} backbone {getattr(spec, 'model', '')}".strip())
    info = info_of(spec, path)
    if isinstance(weights, WeightsFile):
        return replace(info, weights_sha256=weights.sha256.lower(), weights_network=weights.network), path
    return replace(info, weights_seed=weights.random), None


def _measure_dim(network: nn.Module, info: BackboneInfo) -> int:
    """Ask a network for its width by running it on one crop of zeros."""
    import torch

    shape: tuple[int, ...] = (2, 3, info.num_frames or info.frames_multiple, info.size_px or 224, info.size_px or 224)
    if info.sound is not None:
        shape = (2, 1, info.sound.num_mels, info.sound.num_steps)
    with torch.inference_mode():
        try:
            features = network(torch.zeros(shape))
        except (RuntimeError, AssertionError) as err:
            raise ShapeMismatchError(
                f"{info.name}: expected a program that takes crops of shape {shape}, it refuses them "
                f"({str(err).strip().splitlines()[0]}); set num_frames, size_px or input of the backbone"
            ) from err
    if not isinstance(features, torch.Tensor) or features.ndim != 2 or features.shape[0] != shape[0]:
        found = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise ShapeMismatchError(f"{info.name}: expected one vector a crop, shape ({shape[0]}, D), found {found}")
    return int(features.shape[1])
