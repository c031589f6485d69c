"""The whole job on videos that the project draws itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import console
from flows.cli.options import DryRunOption, JsonOption, QuietOption, make_settings
from flows.cli.stages import execute

DEMO_RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "demo.yaml"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("demo", help="The whole job on a small data set that it makes itself: no network, no data needed.")(
        demo
    )


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where videos and store of the demo go.")] = Path("demo"),
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw videos, extract, train, embed, probe, report."""
    from extract.synthetic import MOTIONS, write_dataset

    videos = folder / "videos"
    num_written = write_dataset(videos)
    if not quiet:
        names = ", ".join(motion.name for motion in MOTIONS)
        state = f"drew {num_written} H.264 videos" if num_written else "the videos are there already"
        console.err.print(f"demo     {state} in {videos}: {names}", markup=False)
    settings = make_settings(DEMO_RECIPE, store=str(folder / "store"), data=videos)
    execute(DEMO_RECIPE, settings, stages=None, dry_run=dry_run, as_json=as_json, quiet=quiet)
    if not as_json and not dry_run:
        console.out.print(
            "The backbone of this demo is untrained (random weights): the numbers show that the pipeline runs, "
            "not what SCALE can do.\n"
            f"Next: scale info {settings.store}",
            markup=False,
        )
