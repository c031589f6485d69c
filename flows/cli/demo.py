"""The whole job on videos that the project draws itself."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import console
from flows.cli.options import DryRunOption, JsonOption, QuietOption, make_settings
from flows.cli.stages import execute

DEMO_RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "demo.yaml"
READ_AS = {"mean": "mean of the crops", "moments": "moments over time", "cls": "SCALE's set token"}


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
    from extract.arrangements import ARRANGEMENTS, write_arrangements
    from pipeline.compute.threads import num_cores

    videos = folder / "videos"
    num_written = write_arrangements(videos, workers=min(num_cores(), 8))
    if not quiet:
        state = f"drew {num_written} H.264 videos" if num_written else "the videos are there already"
        what = f"{len(ARRANGEMENTS)} arrangements of the same four motions in place and time"
        console.err.print(f"demo     {state} in {videos}: {what}", markup=False)
    settings = make_settings(DEMO_RECIPE, store=str(folder / "store"), data=videos)
    report = execute(DEMO_RECIPE, settings, stages=None, dry_run=dry_run, as_json=as_json, quiet=quiet)
    if report is None or as_json:
        return
    for line in story(report.probes, len(ARRANGEMENTS)):
        console.out.print(line, markup=False)
    where, first = ["--data", str(videos)], min(videos.rglob("*.mp4"))
    search = shlex.join(["scale", "search", settings.store, "--video", str(first), *where])
    serve = shlex.join(["scale", "serve", settings.store, *where])
    look = f"Three things to look at:\n  {report.report_path}\n  {search}\n  {serve}"
    console.out.print(look, markup=False, soft_wrap=True)  # lines that are copied must not be broken


def story(probes: Sequence[Mapping[str, Any]], num_classes: int) -> list[str]:
    """Say what the kNN table shows: a line a readout, and how far SCALE is from the mean."""
    found = {p["readout"]: p for p in probes if p["probe"] == "knn" and p.get("centring") == "train"}
    if not {"mean", "cls"} <= found.keys():
        return []
    lines = [f"All classes show the same motions, elsewhere at other times. kNN, chance {100 / num_classes:.1f} %:"]
    for readout, name in READ_AS.items():
        if readout in found:
            low, high = found[readout]["interval"]
            top1 = found[readout]["top1"]
            lines.append(f"  {name:20} {100 * top1:5.1f} %   ({100 * low:.1f} - {100 * high:.1f})")
    gain = 100 * (found["cls"]["top1"] - found["mean"]["top1"])
    what = "SCALE reads where and when" if gain > 0 else "SCALE did not learn where and when"
    return [*lines, f"  {what}: {gain:+.1f} points over the mean."]
