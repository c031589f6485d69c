"""Crop features in, a SCALE model and video embeddings out.

>>> import aggregate
>>> # result = aggregate.train(features, raw_geometry, epochs=50)
>>> # values, valid = aggregate.embed(result.model, features, raw_geometry)
"""

from aggregate.api import make_spec, pick_device, train
from aggregate.embed import embed
from aggregate.geometry import MODEL_COLUMNS, derive_geometry
from aggregate.model import ScaleModel
from aggregate.reference import load_reference_state_dict
from aggregate.trainer import TrainResult
from aggregate.whitening import Whitening, fit_whitening

__all__ = [
    "MODEL_COLUMNS",
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
