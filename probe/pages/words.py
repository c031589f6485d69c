"""What probes are called on pages; readouts: :data:`pipeline.recipe.readout_words.IN_WORDS`."""

from __future__ import annotations

METHODS = {
    "knn": "Nearest neighbours",
    "linear": "Linear classifier",
    "mlp": "MLP classifier",
    "attentive": "Attentive classifier",
    "retrieval": "Retrieval",
    "zero_shot": "Zero-shot, nearest words",
    "semi": "Few labels",
    "background": "Without its background",
    "order": "Order of two crops",
    "overlap": "Overlap of two crops",
    "speed": "Speed of a crop",
    "tau": "Order within a class",
    "phase": "Phase within a class",
}
