"""Several processes of one machine for one pretraining: started here as torchrun starts them, or by torchrun itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence

from flows.stages import STAGES
from pipeline import FeatureStore
from pipeline.recipe import Recipe
from pipeline.settings import Settings


def launch(number: int, arguments: Sequence[str]) -> int:
    """Run a command of `scale` in several processes and return the exit code.

    Parameters
    ----------
    number : int
        Processes.
    arguments : sequence of str
        The command and its options.
    """
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number), "-m", "flows", *arguments]
    return subprocess.run([sys.executable, *start], check=False).returncode


def assist(recipe: Recipe, settings: Settings, only: Iterable[str] | None) -> None:
    """Take part in a pretraining whose first process speaks and writes for all."""
    stage = STAGES["pretrain"]
    store = FeatureStore.open_or_create(settings.store)
    stage.run(stage.plan(recipe, store, settings, only=only), store, settings)
