"""Make the backbone of `scale demo` again: draw its videos, pretrain by its recipe, put the file among what ships.

``python -m flows.demo_backbone --folder FOLDER`` (`make demo-backbone`). A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from extract.backbones.weights import SHIPPED
from flows.runner import run_recipe
from pipeline import FeatureStore
from pipeline.recipe import load_recipe
from pipeline.settings import Settings

RECIPES = Path(__file__).resolve().parent / "recipes"
RECIPE, DEMO_RECIPE = RECIPES / "demo_backbone.yaml", RECIPES / "demo.yaml"
WEIGHTS, FACTS = SHIPPED / "demo_backbone.safetensors", SHIPPED / "demo_backbone.json"
NAME = "demo"


def make(folder: Path, workers: int = 2) -> dict[str, object]:
    """Pretrain the backbone in a folder and return what is written down about it.

    Parameters
    ----------
    folder : Path
        For the videos and the store; kept.
    workers : int
        Processes that draw.
    """
    from extract.movers import write_singles
    from flows.cli import console

    write_singles(folder / "videos", workers=workers)
    recipe = load_recipe(RECIPE)
    settings = Settings(store=str(folder / "store"), data=folder / "videos", cache=folder / "cache", device="cpu")
    store = FeatureStore.open_or_create(settings.store)
    with console.EventPrinter() as printer:
        run_recipe(recipe, store, settings, stages=["catalog", "pretrain"], on_event=printer)
    artifact = store.dataset(recipe.dataset.name).artifact("models", NAME)
    SHIPPED.mkdir(exist_ok=True)
    WEIGHTS.write_bytes(artifact.read("weights.safetensors"))
    meta = artifact.meta
    facts = {
        "recipe": RECIPE.name,
        "seed": recipe.pretrain[NAME].seed,
        "sha256": meta["weights_sha256"],
        "fingerprint": meta["fingerprint"],
        "num_videos": meta["num_videos"],
        "num_steps": meta["num_steps"],
        "last": meta["last"],
        "versions": meta["versions"],
    }
    FACTS.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    text = DEMO_RECIPE.read_text(encoding="utf-8")
    DEMO_RECIPE.write_text(re.sub(r'(?<=sha256: ")[0-9a-f]{64}', str(facts["sha256"]), text), encoding="utf-8")
    return facts


def main(argv: Sequence[str] | None = None) -> None:
    """Run it and print what it made."""
    from flows.cli import console

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    console.print_json(make(parser.parse_args(argv).folder))


if __name__ == "__main__":
    main()
