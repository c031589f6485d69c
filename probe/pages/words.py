"""What probes and readouts are called on pages."""

from __future__ import annotations

METHODS = {
    "knn": "Nearest neighbours",
    "linear": "Linear classifier",
    "mlp": "MLP classifier",
    "attentive": "Attentive classifier",
    "retrieval": "Retrieval",
    "semi": "Few labels",
    "order": "Order of two crops",
    "overlap": "Overlap of two crops",
    "speed": "Speed of a crop",
    "tau": "Order within a class",
    "phase": "Phase within a class",
}
READOUTS = {
    "mean": "mean of the crops",
    "crops": "each crop, logits averaged",
    "cls": "SCALE embedding",
    "joined": "mean and SCALE embedding",
    "attention": "attention over the crops",
}
