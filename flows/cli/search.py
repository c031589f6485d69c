"""Find similar videos, and put runs side by side."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli import console
from flows.cli.asking import ParamOption, parse_params
from flows.cli.options import (
    DataOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    StoreArgument,
    WeightsOption,
    check_output,
    make_settings,
)
from flows.cli.picking import DatasetOption, WhereOption, pick_dataset
from pipeline import FeatureStore
from pipeline.errors import InvalidInputError, NotFoundError, StoreNotFoundError

if TYPE_CHECKING:
    from flows.search import SearchResult
    from pipeline import Dataset
    from pipeline.settings import Settings

VideoOption = Annotated[
    Path | None, typer.Option("--video", show_default="none", help="A video file: seen with the index's own recipe.")
]
IdOption = Annotated[
    str | None,
    typer.Option("--id", show_default="none", help="The id of a stored video; it is left out of the answer."),
]
TextOption = Annotated[
    str | None,
    typer.Option("--text", show_default="none", help="Words, where a backbone of the store has a text tower."),
]
FeaturesOption = Annotated[
    str | None,
    typer.Option("--features", show_default="the first that can be", help="With --text: crops/feature set to search."),
]
RecipeOption = Annotated[
    Path | None,
    typer.Option("--recipe", show_default="the store's", help="With --text: a recipe that names the text tower."),
]
CountOption = Annotated[int, typer.Option("--k", min=1, help="How many videos to find.")]
IndexOption = Annotated[str, typer.Option("--index", help="Name of the index.")]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", show_default="none", help="Write a page here as well; it works offline.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("search", help="Find the stored videos that resemble a file, a stored one, or words.")(search)
    app.command("compare", help="Put two reports side by side, paired video by video.")(compare)


def search(
    store: StoreArgument,
    video: VideoOption = None,
    video_id: IdOption = None,
    text: TextOption = None,
    k: CountOption = 10,
    index: IndexOption = "default",
    features: FeaturesOption = None,
    recipe: RecipeOption = None,
    where: WhereOption = None,
    params: ParamOption = None,
    dataset: DatasetOption = None,
    html: HtmlOption = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Search an index."""
    if sum(given is not None for given in (video, video_id, text)) != 1:
        raise InvalidInputError("expected one of --video FILE, --id VIDEO_ID and --text WORDS, found several or none")
    if text is None and (features is not None or recipe is not None):
        raise InvalidInputError("expected --text WORDS beside --features and --recipe, found none")
    check_output(html)
    started = time.perf_counter()
    settings = make_settings(store=store, data=data, weights=weights, device=device)
    opened = FeatureStore.open(store)
    ds = pick_dataset(opened, dataset)
    from flows.search import Condition, search_by_id, search_video

    condition = None if where is None else Condition(where, parse_params(params))
    with console.EventPrinter(quiet=quiet or as_json) as listener:
        if video is not None:
            found = search_video(opened, ds.name, video, settings, k=k, index=index, where=condition, on_event=listener)
        elif text is not None:
            from flows.text_search import search_text
            from pipeline.recipe import load_recipe

            named = None if recipe is None else load_recipe(recipe)
            if recipe is not None:
                settings = settings.model_copy(update={"recipe_dir": recipe.resolve().parent})
            found = search_text(opened, ds.name, text, settings, k=k, features=features, where=condition, recipe=named)
        else:
            found = search_by_id(opened, ds.name, str(video_id), settings, k=k, index=index, where=condition)
    seconds = time.perf_counter() - started
    if found.stale and not quiet:
        console.err.print(f"warning: {found.stale}", markup=False)
    if html is not None:
        html.write_text(_page(found, ds, settings), encoding="utf-8")
    if as_json:
        shown = ("name", "kind", "num_vectors", "recall", "snapshot", "fingerprint")
        facts = {name: found.index[name] for name in shown}
        listed = [hit._asdict() for hit in found.hits]
        body = {
            "query": found.query,
            "hits": listed,
            "index": facts,
            "stale": found.stale,
            "seconds": round(seconds, 3),
        }
        console.print_json(body | {"html": None if html is None else str(html)})
        return
    console.print_table(found.table(), title=f"Nearest to {found.query}", empty="no video")
    recall = ", ".join(f"recall@{depth} {value:.3f}" for depth, value in found.index["recall"].items())
    kind, num_videos = found.index["kind"], found.index["num_vectors"]
    what = f"index {index}" if text is None else f"mean of {found.index['name']}"
    if condition is not None:
        kind, recall = "compared one by one", ""
    console.out.print(f"{what} ({kind}, {recall or 'exact'}), {num_videos} videos; {seconds:.1f} s", markup=False)
    if html is not None:
        console.out.print(f"page  {html}", markup=False, soft_wrap=True)


def _page(found: SearchResult, ds: Dataset, settings: Settings) -> str:
    from extract.pixels.thumbnails import catalogue_thumbnails
    from probe.pages.strips import render_search

    labels = dict(zip(ds.videos["video_id"].to_pylist(), ds.videos["label"].to_pylist(), strict=True))
    return render_search(
        found.query,
        found.hits,
        index=found.index,
        frames=catalogue_thumbnails(ds.videos, settings, kept=ds.preview),
        query_frames=found.query_frames,
        query_label=labels.get(found.query),
        stale=found.stale,
    )


def compare(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A report: its page, JSON or folder, a store with one report, or a name in the store (demo, demo@1).",
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            show_default="files; names in SCALE_STORE",
            help="Take A and B as names of reports in this store.",
        ),
    ] = None,
    dataset: DatasetOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Every number, not the headline ones alone.")] = False,
    html: HtmlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two runs."""
    from probe.pages.compare import compare_runs, load_stored_run, render_comparison

    check_output(html)
    if store is not None:
        opened = FeatureStore.open(store)
        ds = pick_dataset(opened, dataset)
        runs = [load_stored_run(opened, ds.name, name) for name in (a, b)]
    else:
        runs = [_run_at(place, dataset) for place in (a, b)]
    comparison = compare_runs(runs[0], runs[1], headline_only=not everything)
    if html is not None:
        html.write_text(render_comparison(comparison), encoding="utf-8")
    if as_json:
        console.print_json(comparison.as_json() | {"html": None if html is None else str(html)})
        return
    console.out.print(comparison.text(), markup=False, soft_wrap=True)
    if html is not None:
        console.out.print(f"page  {html}", markup=False, soft_wrap=True)


def _run_at(place: str, dataset: str | None) -> Any:
    """Load a report from a file or folder, or the only one of a store."""
    from probe.pages.compare import load_run, load_stored_run

    if not Path(place).exists() and "://" not in place:  # a name: of a report in the store of the environment
        try:
            named = FeatureStore.open(make_settings().store)
        except StoreNotFoundError as error:
            raise NotFoundError(
                f"expected a report's page, JSON or folder, or a store with one report, at {place}, found none; for "
                "the name of a report give its store with --store or SCALE_STORE"
            ) from error
        return load_stored_run(named, pick_dataset(named, dataset).name, place)
    is_store = "://" in place or (Path(place) / "zarr.json").is_file()
    if not is_store:
        return load_run(place)
    opened = FeatureStore.open(place)
    ds = pick_dataset(opened, dataset)
    names = ds.artifacts("reports")
    if len(names) != 1:
        raise NotFoundError(
            f"expected one report in dataset {ds.name} of {place}, found {', '.join(names) or 'none'}; "
            "name them: scale compare A B --store STORE"
        )
    return replace(load_stored_run(opened, ds.name, names[0]), name=place)
