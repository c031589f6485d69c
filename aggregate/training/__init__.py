"""The stage `train`: loop, schedule, checkpoints, metrics, diagnosis."""
