"""Readouts that need no training: from crops to one vector a video, alike for probes, embeddings and search."""
