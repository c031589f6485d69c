"""Prefect flows, deployments and the `scale` command: the only room that imports all others.

Docstrings of flows describe parameters under ``Args:``, the one form that Prefect shows in the forms of its page.
"""
