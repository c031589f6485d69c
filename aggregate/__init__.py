"""Placeholder docstring; see the folder's README."""
