"""Probes with weights: heads, their optimiser, the grid, and what is held out to choose from it."""
