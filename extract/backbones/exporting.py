"""A pretrained network as a program of its own (.pt2): for whoever has torch and none of this project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from extract.backbones.stored import bind, build_stored, read_description
from pipeline.errors import NotFoundError
from pipeline.recipe import PretrainedBackbone

if TYPE_CHECKING:
    from pipeline import Dataset


def export_program(dataset: Dataset, name: str, path: Path) -> dict[str, Any]:
    """Write a pretrained network of a dataset as a ``torch.export`` program, any number of crops at once.

    Parameters
    ----------
    dataset : Dataset
    name : str
        Among its models.
    path : Path
        Where the file goes; written whole.

    Returns
    -------
    dict
        What a recipe has to say to read it: kind, weights, mean, std.

    Raises
    ------
    NotFoundError
        If the dataset has no pretrained network of that name.
    """
    import torch

    from pipeline.fingerprint import hash_file

    bound = bind(PretrainedBackbone(kind="pretrained", model=name), dataset)
    if bound.weights is None or not hasattr(bound.weights, "path"):
        raise NotFoundError(f"expected the pretrained backbone {name}, found none")
    file = Path(bound.weights.path)
    encoder, num_frames, _ = read_description(file)
    network = build_stored(file, what=name)
    example = (torch.zeros((2, 3, num_frames, encoder.size_px, encoder.size_px)),)
    program = torch.export.export(network, example, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial.pt2")
    torch.export.save(program, partial)
    partial.replace(path)
    return {
        "kind": "exported",
        "weights": {"path": str(path), "sha256": hash_file(path)},
        "mean": list(encoder.mean),
        "std": list(encoder.std),
    }
