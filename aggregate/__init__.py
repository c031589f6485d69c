"""Crop features in, a SCALE model and video embeddings out.

>>> import aggregate
>>> # result = aggregate.train(features, raw_geometry, epochs=50)
>>> # values, valid = aggregate.embed(result.model, features, raw_geometry)
"""

from aggregate.api import make_spec, train
from aggregate.data.geometry import MODEL_COLUMNS, derive_geometry
from aggregate.data.torch_dataset import FeatureDataset
from aggregate.embeddings.embed import embed
from aggregate.embeddings.whitening import Whitening, fit_whitening
from aggregate.network.model import ScaleModel
from aggregate.network.reference import load_reference_state_dict
from aggregate.training.trainer import TrainResult
from pipeline.compute.devices import pick_device

__all__ = [
    "MODEL_COLUMNS",
    "FeatureDataset",
    "ScaleModel",
    "TrainResult",
    "Whitening",
    "derive_geometry",
    "embed",
    "fit_whitening",
    "load_reference_state_dict",
    "make_spec",
    "pick_device",
    "train",
]
