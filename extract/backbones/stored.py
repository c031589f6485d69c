"""Pretrained networks: the file that holds one, and where a recipe's name for one leads in a store.

The file is a safetensors of the network's tensors whose header says, as JSON, which network they are for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from extract.backbones.encoders import build_encoder, encoder_info
from extract.backbones.interface import BackboneInfo
from extract.backbones.weights import load_strict, read_state_dict
from pipeline.errors import NotFoundError, WeightsError
from pipeline.fingerprint import hash_file
from pipeline.recipe import BackboneSpec, EncoderSpec, PretrainedBackbone, WeightsFile

if TYPE_CHECKING:
    from torch import nn

    from pipeline import Dataset

HEADER = "scale"
"""Key of the safetensors header."""
WEIGHTS_FILE = "weights.safetensors"
FORMAT = 1
MAX_HEADER_BYTES = 1 << 20


def encode_network(network: nn.Module, spec: EncoderSpec, num_frames: int, dim: int) -> bytes:
    """Return a network as the bytes of its file."""
    from safetensors.torch import save

    said = {"format": FORMAT, "encoder": spec.model_dump(mode="json"), "num_frames": num_frames, "dim": dim}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    return bytes(save(tensors, {HEADER: json.dumps(said, sort_keys=True)}))


def read_description(path: Path) -> tuple[EncoderSpec, int, int]:
    """Return what a file says of its network: encoder, frames, channels.

    Raises
    ------
    WeightsError
        If it is no file of a pretrained network.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if 0 < size <= MAX_HEADER_BYTES else {}
        said: Any = json.loads(header["__metadata__"][HEADER])
        if said["format"] != FORMAT:
            raise WeightsError(f"expected a pretrained network of format {FORMAT} at {path}, found {said['format']!r}")
        return EncoderSpec.model_validate(said["encoder"]), int(said["num_frames"]), int(said["dim"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as err:
        raise WeightsError(
            f"expected a network that `scale pretrain` wrote at {path} (safetensors with the header {HEADER!r}), "
            f"found something else: {str(err).splitlines()[0][:200] if str(err) else type(err).__name__}"
        ) from err


def stored_info(spec: PretrainedBackbone, path: Path) -> BackboneInfo:
    """Describe the network of a file; mean and std may be overridden by the recipe."""
    encoder, num_frames, dim = read_description(path)
    if spec.mean is not None or spec.std is not None:
        encoder = encoder.model_copy(update={"mean": spec.mean or encoder.mean, "std": spec.std or encoder.std})
    return encoder_info(encoder, num_frames, dim)


def build_stored(path: Path, *, what: str) -> nn.Module:
    """Build the network of a file with its weights, in evaluation mode."""
    encoder, num_frames, _ = read_description(path)
    network = build_encoder(encoder, num_frames)
    load_strict(network, read_state_dict(path), what=what)
    return network.eval()


def bind(spec: BackboneSpec, dataset: Dataset | None) -> BackboneSpec:
    """Return a backbone with the file that its name means in a dataset; others as they are.

    Raises
    ------
    NotFoundError
        If the dataset has no pretrained network of that name.
    """
    if not isinstance(spec, PretrainedBackbone) or spec.model is None:
        return spec
    from pipeline.products.backbone import has_backbone

    if dataset is None or not has_backbone(dataset, spec.model):
        raise NotFoundError(
            f"expected the pretrained backbone {spec.model} among the models of the dataset, found none; "
            "run `scale pretrain` first, or give its file under `weights`"
        )
    path = dataset.artifact("models", spec.model).local_path(WEIGHTS_FILE)
    return spec.model_copy(update={"weights": WeightsFile(path=str(path.resolve()), sha256=hash_file(path))})
