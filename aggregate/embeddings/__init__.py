"""The stage `embed`: from a model, or none, to one vector a video."""
