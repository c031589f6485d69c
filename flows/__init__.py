"""Prefect flows, deployments and the `scale` command: the only room that imports all others."""
