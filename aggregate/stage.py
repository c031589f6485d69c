"""The verbs that flows and the command line call."""

from aggregate.embeddings.plan import plan_embed
from aggregate.embeddings.stage import run_embed
from aggregate.training.plan import plan_train
from aggregate.training.stage import run_train

__all__ = ["plan_embed", "plan_train", "run_embed", "run_train"]
