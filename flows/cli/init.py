"""`scale init`: a first recipe for a folder of videos."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import console
from flows.cli.options import WeightsOption, check_output, make_settings
from pipeline.errors import AlreadyExistsError
from pipeline.recipe import load_recipe

if TYPE_CHECKING:
    from flows.first_recipe.look import FolderLook


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("init", help="Look at a folder of videos and write a recipe that suits it.")(init)


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of videos, best one folder a class.")],
    out: Annotated[Path | None, typer.Option("--out", show_default="NAME.yaml", help="The recipe to write.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", show_default="the folder's", help="Of recipe and dataset.")
    ] = None,
    weights: WeightsOption = None,
    with_estimate: Annotated[
        bool, typer.Option("--estimate/--no-estimate", help="Measure decoding and the network for a moment.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a recipe that is there.")] = False,
) -> None:
    """Write a recipe, say what was found and what is missing, and how long a run would take here."""
    from flows.first_recipe.estimate import describe, estimate
    from flows.first_recipe.look import look_at
    from flows.first_recipe.propose import propose

    chosen = name or re.sub(r"[^A-Za-z0-9._+-]+", "-", folder.resolve().name).strip("-._+") or "mine"
    check_output(out)
    target = out or Path(f"{chosen}.yaml")
    if target.exists() and not force:
        raise AlreadyExistsError(f"expected no file at {target}, found one; give another with --out, or --force")
    settings = make_settings(data=folder, weights=weights)
    look = look_at(folder, settings.weights)
    proposal = propose(look, chosen)
    target.write_text(proposal.text, encoding="utf-8")
    recipe = load_recipe(target)
    console.print_table(_facts(look), title=f"{folder}")
    for path, reason in look.unreadable[:5]:
        console.err.print(f"cannot be decoded: {path}: {reason}", markup=False)
    for line in proposal.missing:
        console.out.print(f"missing  {line}", markup=False)
    if with_estimate:
        console.out.print(f"run      {describe(estimate(look, proposal, recipe, settings))}", markup=False)
    console.out.print(f"wrote    {target}", markup=False, soft_wrap=True)
    console.out.print(
        f"Next: scale run {shlex.quote(str(target))} --data {shlex.quote(str(folder))} --store store", markup=False
    )


def _facts(look: FolderLook) -> list[dict[str, object]]:
    classes = ", ".join(f"{n} {c}" for n, c in sorted(look.classes.items(), key=lambda item: -item[1])[:6])
    spread = f"{min(look.durations_s):.1f} - {max(look.durations_s):.1f} s" if look.durations_s else "none decodes"
    sides = f"{min(look.short_side_px)} - {max(look.short_side_px)} px" if look.short_side_px else "-"
    named = f"{len(look.classes)}: {classes}" if len(look.classes) > 1 else "no class folders"
    rates = sorted({round(f, 2) for f in look.fps})
    return [
        {"what": "videos", "found": f"{len(look.videos)} ({', '.join(look.suffixes)})"},
        {"what": "classes", "found": named},
        {"what": "sources", "found": str(look.num_groups) if look.group_pattern else "names do not tell"},
        {"what": f"length, of {look.sampled}", "found": f"{spread}, median {look.median_s:.1f} s"},
        {"what": "frames a second", "found": ", ".join(map(str, rates[:6])) or "-"},
        {"what": "short side", "found": sides},
        {"what": "weights", "found": ", ".join(w.path.name for w in look.weights) or "none"},
    ]  # fmt: skip
