"""`scale sweep`: a grid over fields of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import console
from flows.cli.options import (
    DataOption,
    DeviceOption,
    DryRunOption,
    JsonOption,
    QuietOption,
    RecipeArgument,
    StoreOption,
    WeightsOption,
    check_output,
    make_settings,
    store_of_run,
)
from pipeline.errors import EXIT_PARTIAL

SetOption = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="FIELD=VALUES",
        help="A field and its values: `train.epochs=20,60`, `train.method=scale,vicreg`, `models.*.ema=0.99,null`; "
        "`seed=0,1,2` and `split=1,2,3` set it everywhere, and are averaged. Repeat for a grid.",
    ),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", show_default="none", help="Write the table as a page as well; it works offline."),
]
StoredOption = Annotated[
    bool, typer.Option("--stored", help="Use the features that the store holds; look for no new videos.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("sweep", help="A grid over fields of a recipe on one store: one table with intervals.")(sweep)


def sweep(
    recipe: RecipeArgument,
    fields: SetOption,
    html: HtmlOption = None,
    stored: StoredOption = False,
    everything: Annotated[bool, typer.Option("--all", help="Every number, not the headline ones alone.")] = False,
    store: StoreOption = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a recipe at every point of a grid; what is in the store already is not made again.

    Raises
    ------
    typer.Exit
        With code 4 when a point has no numbers.
    """
    from flows.sweep.grid import parse_axis, points_of
    from flows.sweep.run import plan_sweep, run_sweep
    from pipeline.recipe.recipe import read_recipe
    from probe.pages.sweep import render_sweep

    settings = make_settings(recipe, store=store, data=data, weights=weights, device=device)
    points = points_of(read_recipe(recipe).content, [parse_axis(text) for text in fields], source=str(recipe))
    check_output(html)
    if dry_run:
        with store_of_run(settings, dry_run=True) as opened:
            lines = plan_sweep(points, opened, settings)
        if as_json:
            console.print_json({"points": lines})
        else:
            console.print_table(lines, title=f"sweep: {len(points)} points")
        return
    with store_of_run(settings, dry_run=False) as opened, console.EventPrinter(quiet=quiet) as printer:
        found = run_sweep(
            points, opened, settings, read_videos=not stored, headline_only=not everything, on_event=printer
        )
    if html is not None:
        html.write_text(render_sweep(f"{recipe.stem}: {', '.join(fields)}", found), encoding="utf-8")
    if as_json:
        console.print_json({"points": len(points), **found.as_json(), "html": None if html is None else str(html)})
    else:
        console.print_table(found.table(), title=f"sweep: {len(points)} points", empty="no numbers")
        if html is not None:
            console.out.print(f"page  {html}", markup=False, soft_wrap=True)
    for failure in found.failures:
        words = ", ".join(f"{field} = {value}" for field, value in failure.point.items())
        console.err.print(f"{words}: {failure.error}", style="yellow", markup=False)
    if found.failures:
        raise typer.Exit(EXIT_PARTIAL)
