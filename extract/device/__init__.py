"""Pixels on, features off, and the network between them, on whatever device a run has."""
