"""The verbs that flows and the command line call."""

from aggregate.embed_stage import EmbedPlan, plan_embed, run_embed
from aggregate.train_stage import TrainPlan, plan_train, run_train

__all__ = ["EmbedPlan", "TrainPlan", "plan_embed", "plan_train", "run_embed", "run_train"]
