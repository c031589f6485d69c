"""What a backbone is to the rest of extraction: crops in, one vector a crop out.

Nothing here imports torch when the module is imported, so that plans, which
only describe backbones, stay cheap.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import ShapeMismatchError

if TYPE_CHECKING:
    import torch

    from extract.sound.spectrogram import SoundSpec

KINETICS_MEAN = (0.45, 0.45, 0.45)
KINETICS_STD = (0.225, 0.225, 0.225)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Triple = tuple[float, float, float]

OPENVINO, COMPILED, PLAIN = "openvino", "compiled", "plain"
"""How a network runs: by OpenVINO, by torch.compile, or as it is. Words of the store's ledgers."""


@dataclass(frozen=True, slots=True)
class BackboneInfo:
    """What can be said of a backbone without building it.

    Attributes
    ----------
    name : str
        For people: the model, or the name of the program's file.
    kind, model : str
        Which network: ``("pytorchvideo", "slow_r50")``.
    readout : str
        What is read from it, in words; part of the fingerprint.
    mean, std : tuple of 3 float
        Of RGB in 0..1, to normalise its input with.
    dim : int or None
        Channels of a feature; None where only building the network tells.
    num_frames : int or None
        Frames it takes; None: any number that `frames_multiple` divides.
    size_px : int or None
        Side of its square input; None: any.
    input : {"crop", "frame", "sound"}
        frame: an image network, run on every frame and averaged over them. sound: spectrograms of a crop's time.
    weights_sha256 : str or None
        Of the weights file; None for random weights.
    weights_seed : int or None
        Of random weights; None for a file.
    weights_network : {"online", "momentum"}
        Which copy of a self-supervised checkpoint.
    frames_multiple : int
        See `num_frames`.
    compile_gain, openvino_gain : float
        How much faster torch.compile or OpenVINO is expected to make it on a CPU; no part of the fingerprint.
    sound : SoundSpec or None
        What it hears; None for networks that see.
    """

    name: str
    kind: str
    model: str
    readout: str
    mean: Triple
    std: Triple
    dim: int | None = None
    num_frames: int | None = None
    size_px: int | None = None
    input: Literal["crop", "frame", "sound"] = "crop"
    weights_sha256: str | None = None
    weights_seed: int | None = None
    weights_network: Literal["online", "momentum"] = "online"
    frames_multiple: int = 1
    compile_gain: float = 1.05
    openvino_gain: float = 1.3
    sound: SoundSpec | None = None

    @property
    def is_trained(self) -> bool:
        """False for random weights: reports must say so."""
        return self.weights_sha256 is not None

    def description(self) -> dict[str, Any]:
        """Return what changes the numbers, for the feature fingerprint (JSON-like; no paths, no names of files)."""
        weights: dict[str, Any] = {"random": self.weights_seed}
        if self.weights_sha256 is not None:
            weights = {"sha256": self.weights_sha256, "network": self.weights_network}
        return {
            "kind": self.kind,
            "model": self.model,
            "weights": weights,
            "readout": self.readout,
            "input": self.input,
            "num_frames": self.num_frames,
            "size_px": self.size_px,
            "mean": list(self.mean),
            "std": list(self.std),
        }


class Backbone:
    """A frozen network on a device.

    Made by :func:`extract.backbones.load_backbone`. Several threads may call
    it; the first call for a size of crop may compile. Its attributes are those of :class:`BackboneInfo`, with
    `dim` known.

    Parameters
    ----------
    info : BackboneInfo
    network : torch.nn.Module
        Maps (B, 3, T, H, W) float32 to (B, D), in evaluation mode.
    dim : int
        D.
    device : torch.device
    autocast : {"float16", "bfloat16"} or None
        Precision of matrix products and convolutions; None: float32.
    before_size : callable, optional
        Called with the backbone and the shape of the crops before the first call for each size; it may compile.
    build : callable, optional
        Builds the network again, untouched by tuning: what OpenVINO takes.
    as_before : {"openvino", "compiled", "plain"}, optional
        See :meth:`follow`.
    """

    def __init__(
        self,
        info: BackboneInfo,
        network: torch.nn.Module,
        *,
        dim: int,
        device: torch.device,
        autocast: Literal["float16", "bfloat16"] | None = None,
        before_size: Callable[[Backbone, tuple[int, ...]], object] | None = None,
        build: Callable[[], torch.nn.Module] | None = None,
        as_before: str | None = None,
    ) -> None:
        self.info = info
        self.network = network
        self.device = device
        self.autocast = autocast
        self.dim = dim
        self.build = build
        self.as_before = as_before
        self._before_size = before_size
        self._runs: dict[tuple[int, ...], Callable[[torch.Tensor], torch.Tensor]] = {}
        self._ways: dict[tuple[int, ...], str] = {}
        self._deciding = threading.RLock()

    name = property(lambda self: self.info.name)
    num_frames = property(lambda self: self.info.num_frames)
    size_px = property(lambda self: self.info.size_px)
    mean = property(lambda self: self.info.mean)
    std = property(lambda self: self.info.std)
    weights_sha256 = property(lambda self: self.info.weights_sha256)
    is_trained = property(lambda self: self.info.is_trained)

    def description(self) -> dict[str, Any]:
        """Return what changes the numbers; equal to that of :func:`describe_backbone`."""
        return self.info.description()

    def check_input(self, shape: tuple[int, ...]) -> None:
        """Raise :class:`ShapeMismatchError` unless crops of this shape fit."""
        check_clip_shape(self.info, shape)

    @property
    def way(self) -> str:
        """How crops are run: by what stands in for the network at any of their sizes, else "plain"."""
        return next((way for way in self._ways.values() if way != PLAIN), PLAIN)

    def takes_channels_last(self, shape: tuple[int, ...]) -> bool:
        """Whether crops of the size in `shape` (B, 3, T, H, W) are best laid out so; either layout is right."""
        wants_first = getattr(self.network, "channels_first", False)
        return not wants_first and self._ways.get(tuple(shape[2:])) != OPENVINO

    def use_for(self, shape: tuple[int, ...], run: Callable[[torch.Tensor], torch.Tensor], way: str) -> None:
        """Let `run` stand in for the network for crops of the size in `shape` (B, 3, T, H, W)."""
        self._ways[tuple(shape[2:])], self._runs[tuple(shape[2:])] = way, run

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Decide how crops of the size in `shape` are run, as the first call would."""
        self._run_for(tuple(shape))

    def follow(self, way: str) -> None:
        """Run crops as others that stand beside them were made, as far as this machine can.

        What was decided otherwise is forgotten, and done so at the next call.
        """
        if self.as_before == way:
            return
        self.as_before = way
        if self._ways and self.way != way:
            self._runs.clear()
            self._ways.clear()

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        """Return one feature a crop.

        Parameters
        ----------
        clips : Tensor of shape (B, 3, T, H, W), float32
            RGB, normalised with `mean` and `std`, on `device`.

        Returns
        -------
        Tensor of shape (B, D), float32
            On `device`.

        Raises
        ------
        ShapeMismatchError
            If the network does not take crops of this shape or dtype.
        """
        import torch

        self.check_input(tuple(clips.shape))
        if clips.dtype != torch.float32:
            raise ShapeMismatchError(f"{self.name}: expected float32 crops, found {clips.dtype}; normalise them first")
        run = self._run_for(tuple(clips.shape))
        with torch.inference_mode():
            if self.autocast is None:
                features = run(clips)
            else:
                with torch.autocast(self.device.type, dtype=getattr(torch, self.autocast)):
                    features = run(clips)
        if features.shape != (clips.shape[0], self.dim):
            raise ShapeMismatchError(
                f"{self.name}: expected features of shape ({clips.shape[0]}, {self.dim}), "
                f"found {tuple(features.shape)}; the network is not a feature extractor of that width"
            )
        return features.float()

    def _run_for(self, shape: tuple[int, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what runs crops of a size; who asks while it is being decided waits."""
        size = shape[2:]
        run = self._runs.get(size)
        if run is None:
            with self._deciding:
                if size not in self._runs and self._before_size is not None:
                    self._before_size(self, shape)
                if size not in self._runs:
                    self.use_for(shape, self.network, PLAIN)
                run = self._runs[size]
        return run


def check_clip_shape(info: BackboneInfo, shape: tuple[int, ...]) -> None:
    """Raise unless crops of `shape` (B, 3, T, H, W) fit the backbone.

    Raises
    ------
    ShapeMismatchError
        Naming what differs and what to change in the recipe.
    """
    if info.sound is not None:
        wanted = (1, info.sound.num_mels, info.sound.num_steps)
        if shape[1:] != wanted:
            raise ShapeMismatchError(f"{info.name}: expected spectrograms of shape (B, {wanted}), found {shape}")
        return
    if len(shape) != 5 or shape[1] != 3:
        raise ShapeMismatchError(f"{info.name}: expected crops of shape (B, 3, T, H, W), found {shape}")
    frames, height, width = shape[2:]
    if info.num_frames is not None and frames != info.num_frames:
        raise ShapeMismatchError(
            f"{info.name}: expected {info.num_frames} frames a crop, found {frames}; "
            "set num_frames of the crop set, or of the backbone so that they are spread over the crop"
        )
    if frames % info.frames_multiple:
        raise ShapeMismatchError(
            f"{info.name}: expected a number of frames that {info.frames_multiple} divides, found {frames}; "
            "set num_frames of the crop set or of the backbone"
        )
    if info.size_px is not None and (height, width) != (info.size_px, info.size_px):
        raise ShapeMismatchError(
            f"{info.name}: expected crops of {info.size_px} x {info.size_px} px, found {height} x {width}; "
            "set size_px of the crop set or of the backbone"
        )


def spread_frames(num_available: int, num_wanted: int | None) -> list[int]:
    """Return the frames of a crop that a backbone sees when it takes fewer than there are.

    Evenly spread, first and last included, as pytorchvideo's
    ``UniformTemporalSubsample``.

    Examples
    --------
    >>> spread_frames(16, 4)
    [0, 5, 10, 15]
    >>> spread_frames(3, None)
    [0, 1, 2]
    """
    if num_wanted is None or num_wanted == num_available:
        return list(range(num_available))
    if num_wanted == 1:
        return [0]
    return [i * (num_available - 1) // (num_wanted - 1) for i in range(num_wanted)]
