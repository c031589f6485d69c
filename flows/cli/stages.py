"""`scale run` and one command per stage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli import console
from flows.cli.options import (
    DaskOption,
    DataOption,
    DeviceOption,
    DryRunOption,
    JsonOption,
    QuietOption,
    RecipeArgument,
    StoreOption,
    WeightsOption,
    WorkersOption,
    load,
    make_settings,
    split_list,
    store_of_run,
)
from flows.launching import assist, launch
from pipeline.errors import EXIT_PARTIAL, InvalidInputError
from pipeline.recipe import Recipe
from pipeline.settings import Settings
from pipeline.stage import StagePlan

if TYPE_CHECKING:
    from flows.runner import RunReport

ShardsOption = Annotated[
    str | None, typer.Option("--shards", show_default="all that are missing", help="Only these: `3,7` or `10-19`.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("run", help="Catalog, extract, train, embed, probe and report: only what is missing.")(run)
    app.command("catalog", help="Find the videos and describe them in the catalogue.")(catalog)
    app.command("pretrain", help="Pretrain the recipe's backbones on the videos' pixels, without labels.")(pretrain)
    app.command("extract", help="Decode the videos once and store the features of their crops.")(extract)
    app.command("train", help="Train the recipe's models on stored features.")(_of_models("train"))
    app.command("embed", help="Write video embeddings back into the store.")(_of_models("embed"))
    app.command("probe", help="Measure features and embeddings; write the report.")(_single("probe"))
    app.command("index", help="Build the search indexes that the recipe names.")(_single("index"))


def run(
    recipe: RecipeArgument,
    store: StoreOption = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    workers: WorkersOption = None,
    dask: DaskOption = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch weights that the recipe names and this machine lacks.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a whole recipe."""
    if fetch and not dry_run:
        from flows.cli.weights import fetch_named

        fetch_named(load(recipe), quiet=quiet or as_json)
    where = {"store": store, "data": data, "weights": weights, "device": device, "workers": workers, "dask": dask}
    settings = make_settings(recipe, **where)
    execute(recipe, settings, stages=None, dry_run=dry_run, as_json=as_json, quiet=quiet)


def catalog(
    recipe: RecipeArgument,
    store: StoreOption = None,
    data: DataOption = None,
    workers: WorkersOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take changed files that gave features; those are made again.")
    ] = False,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find the videos of a recipe; describe those that are new, late or mended."""
    settings = make_settings(recipe, store=store, data=data, weights=weights, device=device, workers=workers)
    execute(
        recipe, settings, stages=["catalog"], dry_run=dry_run, as_json=as_json, quiet=quiet, replace=replace or None
    )


def extract(
    recipe: RecipeArgument,
    store: StoreOption = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    workers: WorkersOption = None,
    dask: DaskOption = None,
    shards: ShardsOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Extract features of the catalogued videos."""
    where = {"store": store, "data": data, "weights": weights, "device": device, "workers": workers, "dask": dask}
    settings = make_settings(recipe, **where)
    chosen = parse_shards(shards)
    execute(recipe, settings, stages=["extract"], dry_run=dry_run, as_json=as_json, quiet=quiet, shards=chosen)


def pretrain(
    recipe: RecipeArgument,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", show_default="all of the recipe", help="Only this; may be repeated."),
    ] = None,
    store: StoreOption = None,
    data: DataOption = None,
    device: DeviceOption = None,
    workers: WorkersOption = None,
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="Processes of this machine that share every batch: one a GPU.")
    ] = 1,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Pretrain backbones; under torchrun, or with --processes, on several GPUs at once."""
    settings = make_settings(recipe, store=store, data=data, device=device, workers=workers)
    chosen = tuple(only) if only else None
    if processes > 1 and not dry_run:
        given = {"--store": store, "--data": data, "--device": device, "--workers": workers}
        options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
        options += [word for name in only or () for word in ("--only", name)]
        flags = [name for name, is_set in (("--json", as_json), ("--quiet", quiet)) if is_set]
        raise typer.Exit(launch(processes, ["pretrain", str(recipe), *options, *flags]))
    if os.environ.get("RANK", "0") != "0":  # the first process speaks and writes for all
        assist(load(recipe), settings, chosen)
        return
    execute(recipe, settings, stages=["pretrain"], dry_run=dry_run, as_json=as_json, quiet=quiet, only=chosen)


def _single(name: str) -> Any:
    def command(
        recipe: RecipeArgument,
        store: StoreOption = None,
        data: DataOption = None,
        weights: WeightsOption = None,
        device: DeviceOption = None,
        workers: WorkersOption = None,
        dry_run: DryRunOption = False,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> None:
        settings = make_settings(recipe, store=store, data=data, weights=weights, device=device, workers=workers)
        execute(recipe, settings, stages=[name], dry_run=dry_run, as_json=as_json, quiet=quiet)

    return command


OnlyOption = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="MODEL", show_default="all", help="Only this model of the recipe; may be repeated."),
]


def _of_models(name: str) -> Any:
    def command(
        recipe: RecipeArgument,
        only: OnlyOption = None,
        store: StoreOption = None,
        data: DataOption = None,
        weights: WeightsOption = None,
        device: DeviceOption = None,
        workers: WorkersOption = None,
        dry_run: DryRunOption = False,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> None:
        settings = make_settings(recipe, store=store, data=data, weights=weights, device=device, workers=workers)
        chosen = tuple(only) if only else None
        execute(recipe, settings, stages=[name], dry_run=dry_run, as_json=as_json, quiet=quiet, only=chosen)

    return command


def execute(
    recipe_path: Path,
    settings: Settings,
    *,
    stages: list[str] | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> RunReport | None:
    """Plan or run the stages of a recipe, print the outcome and return it; None where it was planned alone.

    Raises
    ------
    typer.Exit
        With code 4 when something was left undone that should have been done.
    """
    from flows.before_work import check_before
    from flows.runner import plan_recipe, run_recipe, select_stages

    recipe = load(recipe_path)
    wanted = [stage.name for stage in select_stages(recipe, stages)]
    check_before(recipe, settings, wanted)
    if dry_run:
        with store_of_run(settings, dry_run=True) as store:
            _print_plan(recipe, plan_recipe(recipe, store, settings, stages=stages, **options), as_json=as_json)
        return None
    with store_of_run(settings, dry_run=False) as store, console.EventPrinter(quiet=quiet) as printer:
        report = run_recipe(recipe, store, settings, stages=stages, on_event=printer, **options)
    if as_json:
        console.print_json(report.as_json())
    else:
        if report.probes:
            console.print_probes(report.probes)
        if report.report_path:
            console.out.print(f"report   {report.report_path}", markup=False, soft_wrap=True)
        console.out.print(f"snapshot {report.report_snapshot or report.snapshot}", markup=False, soft_wrap=True)
        console.out.print(_closing_line(report, whole=stages is None), markup=False)
    for stage in report.stages:
        if stage.undone:
            console.err.print(f"{stage.stage:8} {stage.undone}", style="yellow", markup=False)
    if report.is_partial:
        raise typer.Exit(EXIT_PARTIAL)
    return report


def _print_plan(recipe: Recipe, plans: list[StagePlan], *, as_json: bool) -> None:
    if as_json:
        listed = [{"stage": p.stage, "empty": p.is_empty, "summary": p.summary(), "work": p.table()} for p in plans]
        products = [one.as_json() for plan in plans for one in plan.standings]
        console.print_json({"recipe": recipe.name, "plan": listed, "products": products})
        return
    for plan in plans:
        console.print_table(plan.table(), title=f"{plan.stage}: {plan.summary().removeprefix(f'{plan.stage}: ')}")


WORK_COUNTS = (
    "videos_new",
    "videos_late",
    "videos_replaced",
    "backbones_pretrained",
    "shards_done",
    "models_trained",
    "probes_run",
    "indexes_built",
)


def _closing_line(report: Any, *, whole: bool) -> str:
    did = {f"{r.stage} {name}": count for r in report.stages for name, count in r.did.items() if name in WORK_COUNTS}
    if not any(did.values()):
        if report.is_partial:
            return f"nothing was done, and something is left to do ({report.seconds:.1f} s)"
        if alone := [r.stage for r in report.stages if not whole]:
            return f"nothing to do for {', '.join(alone)} ({report.seconds:.1f} s)"
        return f"nothing to do: everything that {report.recipe} asks for is in the store ({report.seconds:.1f} s)"
    done = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in did.items() if count)
    return f"done in {report.seconds:.1f} s: {done}"


def parse_shards(text: str | None) -> list[int] | None:
    """Return the shard numbers of ``3,7`` or ``10-19``.

    Raises
    ------
    InvalidInputError
        If the text is anything else.
    """
    parts = split_list(text)
    if parts is None:
        return None
    shards: list[int] = []
    for part in parts:
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise InvalidInputError(f"expected shards such as 3,7 or 10-19, found {text!r}; count them from 0")
        shards.extend(range(int(first), int(last or first) + 1))
    return sorted(set(shards))
