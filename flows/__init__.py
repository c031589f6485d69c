"""Prefect flows, deployments and the `scale` command: the only room that imports all others.

Docstrings of flows describe parameters under ``Args:``, the one form that Prefect shows in the forms of its page.
"""

import os

# Before torch and faiss start their OpenMP pools: waiting threads that spin starve the decoders beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
