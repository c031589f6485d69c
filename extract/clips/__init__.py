"""Clips for pretraining: decoded once, kept small for a while, augmented anew in every step."""
