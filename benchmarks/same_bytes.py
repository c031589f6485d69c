"""The same recipe run by two checkouts: every array, model file, index and report number must be the same bytes.

    python benchmarks/same_bytes.py OLD_CHECKOUT NEW_CHECKOUT [--out results.md]

Each checkout runs the recipe below in a process of its own, on the same generated videos, into a store of its own that
begins with one catalogue. One that standardises inputs unless told otherwise is told otherwise (`normalise: none`), so
that it can be held against one that knew no such choice. Then the new one looks at the old one's store (upgraded, where
the schema asks for it) and must find nothing to do: fingerprints, snapshots and report inputs are the same, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

RECIPE = """
name: same
dataset: {name: motions, videos: "**/*.mp4", labels: {from: folder}, shard_rows: 8,
          splits: {from: random, test_fraction: 0.34, seed: 2}}
crops:
  train8: {policy: random, num_crops: 8, num_frames: 8, stride: 4, short_side_px: [64, 72], size_px: 64, flip: true}
  grid3x1: {policy: grid, temporal: 3, spatial: 1, num_frames: 8, stride: 4, short_side_px: 64, size_px: 64,
            cover_tail: true}
backbones:
  x3d_xs: {kind: pytorchvideo, model: x3d_xs, weights: {random: 0}, size_px: 64, streams: [rgb, tgrad]}
train: {name: scale, crops: train8, backbone: x3d_xs-tgrad, set_size: 4, batch_size: 16, epochs: 3, seed: 0,
        model: {dim: 32, num_heads: 4, head_hidden_dim: 64, target_hidden_dim: 64, projection_dim: 16}}
embed:
  - {crops: grid3x1}
  - {crops: grid3x1, name: white, readout: whitened, sets: 1}
probes:
  - {kind: knn, crops: grid3x1, k: [1, 5], temperature: 0.07}
  - {kind: linear, crops: grid3x1, backbone: x3d_xs-tgrad, epochs: 5}
  - {kind: retrieval, crops: grid3x1}
indexes:
  - {name: default, crops: grid3x1, readout: mean}
  - {name: of-cls, crops: grid3x1, backbone: x3d_xs-tgrad, readout: cls}
"""
STANDARDISES = "train: {"
"""Where a recipe says that inputs stay as they are, for checkouts that know the word."""
PROGRAM = "import sys; from flows.cli import run; sys.exit(run(sys.argv[1:]))"
WITHOUT_TIMES = ("created", "seconds", "num_bytes", "versions", "details", "did")
"""Of a report: what may differ between two runs of one version, too."""
META = (
    "fingerprint",
    "snapshot",
    "inputs",
    "weights_sha256",
    "recipe",
    "config",
    "fingerprint_content",
    "source",
    "kind",
)


def main() -> int:
    """Run both, compare, print a table; exit 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="same-bytes-") as name:
        folder = Path(name)
        for checkout in (given.old, given.new):
            recipe_of(checkout, folder).write_text(recipe_text(checkout))
        make = "import sys; from pathlib import Path; from extract.arrangements import write_arrangements as write; "
        run(given.new, ["-c", make + "write(Path(sys.argv[1]), videos_per_class=3)", str(folder / "v")])
        scale(given.old, folder, "old", "catalog")  # one catalogue for both: it says when a video was added
        shutil.copytree(folder / "old", folder / "new")
        upgrade(given.new, folder / "new")
        for checkout, store in ((given.old, "old"), (given.new, "new")):
            scale(checkout, folder, store)
        counts, differing = compare(folder / "old", folder / "new")
        upgrade(given.new, folder / "old")
        did = scale(given.new, folder, "old")["did"]
        counts["stages of NEW with nothing to do in OLD's store"] += len(did)
        worked = ("videos_new", "shards_done", "models_trained", "probes_run", "indexes_built")
        differing += [f"NEW in OLD's store: {stage} {n}" for stage, d in did.items() for n in worked if d.get(n)]
    lines = ["| compared | same |", "| --- | --- |", *(f"| {what} | {n} |" for what, n in sorted(counts.items()))]
    lines += ["", *(f"DIFFERS: {what}" for what in differing), f"{len(differing)} differences"]
    text = f"{commit(given.old)} against {commit(given.new)}\n\n" + "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if given.out:
        given.out.write_text(text)
    return 1 if differing else 0


def scale(checkout: Path, folder: Path, store: str, stage: str = "run") -> dict[str, Any]:
    """Run the recipe, or one stage of it, and return the last line of its JSON."""
    where = ["--data", str(folder / "v"), "--store", str(folder / store), "--device", "cpu", "-q", "--json"]
    printed = run(checkout, ["-c", PROGRAM, stage, str(recipe_of(checkout, folder)), *where])
    return json.loads(printed.strip().splitlines()[-1])


def recipe_of(checkout: Path, folder: Path) -> Path:
    """Return where the recipe of a checkout lies."""
    return folder / f"recipe-{commit(checkout)}.yaml"


def recipe_text(checkout: Path) -> str:
    """Return the recipe as a checkout understands it."""
    knows = "normalise:" in (checkout / "pipeline/recipe/training.py").read_text()
    return RECIPE.replace(STANDARDISES, STANDARDISES + "normalise: none, ") if knows else RECIPE


def without_choice(content: Any) -> Any:
    """Return a stored recipe or training without `normalise: none`, which is what all did before there was a choice."""
    if not isinstance(content, dict):
        return content
    return {k: without_choice(v) for k, v in content.items() if (k, v) != ("normalise", "none")}


def upgrade(checkout: Path, store: Path) -> None:
    """Bring a store to the checkout's schema, where that has the command: it changes no value."""
    if (checkout / "pipeline/store/upgrade.py").is_file():
        run(
            checkout,
            ["-c", "import sys; from flows.cli import run; sys.exit(run(sys.argv[1:]))", "upgrade", str(store)],
        )


def run(checkout: Path, arguments: list[str]) -> str:
    """Run Python on a checkout's sources."""
    env = os.environ | {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=checkout, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{checkout}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


def commit(checkout: Path) -> str:
    """Return the checkout's commit."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def compare(old: Path, new: Path) -> tuple[Counter[str], list[str]]:
    """Compare array shards byte by byte, artifacts by the hashes of their files, reports by their numbers."""
    counts: Counter[str] = Counter()
    differing: list[str] = []

    def check(kind: str, what: str, one: object, other: object) -> None:
        counts[kind] += one == other
        if one != other:
            differing.append(f"{kind}: {what}")

    shards = {p.relative_to(old) for p in old.rglob("c.*") if p.is_file()}
    for path in sorted(shards | {p.relative_to(new) for p in new.rglob("c.*") if p.is_file()}):
        both = [(root / path).read_bytes() if (root / path).is_file() else None for root in (old, new)]
        check("array shards", str(path), *both)
    for kind in ("models", "indexes", "reports"):
        names = sorted({p.name for root in (old, new) for p in (root / "motions" / kind).iterdir()})
        for name in names:
            artifacts = [artifact(root / "motions" / kind / name) for root in (old, new)]
            for key in META:
                check(f"{kind}: meta", f"{name} {key}", *(without_choice(meta.get(key)) for meta, _ in artifacts))
            for file in sorted(artifacts[0][1].keys() | artifacts[1][1].keys()):
                if file.endswith(".html"):  # the page may look otherwise
                    continue
                both = [files.get(file) for _, files in artifacts]
                check(f"{kind}: files", f"{name} {file}{fields_apart(*both)}", *both)
    return counts, differing


def fields_apart(one: Any, other: Any) -> str:
    """Return which fields of two mappings differ, for people."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return ""
    return " " + ", ".join(sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k)))


def artifact(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an artifact's meta, and its files as they are compared."""
    body = json.loads((folder / "meta.json").read_text())
    files: dict[str, Any] = {}
    for name, digest in body["files"].items():
        stem, dot, suffix = name.partition(".")
        data = (folder / f"{stem}-{digest[:12]}{dot}{suffix}").read_bytes()
        files[name] = digest
        if name == "report.json":
            files[name] = without_choice({k: v for k, v in json.loads(data).items() if k not in WITHOUT_TIMES})
        if name == "metrics.jsonl":
            files[name] = [
                {k: v for k, v in json.loads(line).items() if "second" not in k} for line in data.splitlines()
            ]
    return body["meta"], files


if __name__ == "__main__":
    sys.exit(main())
