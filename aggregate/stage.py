"""The verbs that flows and the command line call."""

from aggregate.embed_plan import EmbedPlan, plan_embed
from aggregate.embed_stage import run_embed
from aggregate.train_plan import TrainPlan, plan_train
from aggregate.train_stage import run_train

__all__ = ["EmbedPlan", "TrainPlan", "plan_embed", "plan_train", "run_embed", "run_train"]
