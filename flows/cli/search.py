"""Find similar videos, and put runs side by side."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from flows.cli import console
from flows.cli.options import (
    DataOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    StoreArgument,
    WeightsOption,
    make_settings,
)
from flows.cli.store import DatasetOption, pick_dataset
from pipeline import FeatureStore
from pipeline.errors import InvalidInputError, NotFoundError
from pipeline.events import ignore

VideoOption = Annotated[Path | None, typer.Option("--video", help="A video file: seen with the index's own recipe.")]
IdOption = Annotated[str | None, typer.Option("--id", help="The id of a stored video; it is left out of the answer.")]
CountOption = Annotated[int, typer.Option("--k", min=1, help="How many videos to find.")]
IndexOption = Annotated[str, typer.Option("--index", help="Name of the index.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write a page here as well; it works offline.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("search", help="Find the stored videos that resemble a file, or a stored one.")(search)
    app.command("compare", help="Put two reports side by side, paired video by video.")(compare)


def search(
    store: StoreArgument,
    video: VideoOption = None,
    video_id: IdOption = None,
    k: CountOption = 10,
    index: IndexOption = "default",
    dataset: DatasetOption = None,
    html: HtmlOption = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Search an index."""
    if (video is None) == (video_id is None):
        raise InvalidInputError("expected either --video FILE or --id VIDEO_ID, found both or neither")
    started = time.perf_counter()
    settings = make_settings(store=store, data=data, weights=weights, device=device)
    opened = FeatureStore.open(store)
    ds = pick_dataset(opened, dataset)
    from probe.index import describe_hits, open_index, search_stored

    loaded = open_index(opened, ds.name, index)
    if loaded.stale and not quiet:
        console.err.print(f"warning: {loaded.stale}", markup=False)
    if video is not None:
        from flows.query_video import query_vector

        listener = ignore if quiet or as_json else console.EventPrinter()
        vector = query_vector(video, loaded, ds, settings, listener)
        extracted_s = time.perf_counter() - started
        found = loaded.search(vector, k)
        query = str(video)
    else:
        extracted_s = 0.0
        query = str(video_id)
        found = search_stored(opened, ds.name, index, [query], k)
    hits = describe_hits(opened, ds.name, found.rows[0], found.similarities[0])
    seconds = time.perf_counter() - started
    if html is not None:
        html.write_text(_page(query, video, hits, loaded, ds, settings), encoding="utf-8")
    if as_json:
        facts = {
            name: loaded.meta[name] for name in ("name", "kind", "num_vectors", "recall", "snapshot", "fingerprint")
        }
        listed = [hit._asdict() for hit in hits]
        body = {"query": query, "hits": listed, "index": facts, "stale": loaded.stale, "seconds": round(seconds, 3)}
        typer.echo(json.dumps(body | {"html": None if html is None else str(html)}))
        return
    console.print_table([_row(hit) for hit in hits], title=f"Nearest to {query}", empty="no video")
    recall = ", ".join(f"recall@{depth} {value:.3f}" for depth, value in loaded.meta["recall"].items())
    console.out.print(
        f"index {index} ({loaded.meta['kind']}, {recall or 'exact'}), {loaded.meta['num_vectors']} videos; "
        f"{seconds:.1f} s" + (f" of which {extracted_s:.1f} s for the query's features" if video else ""),
        markup=False,
    )
    if html is not None:
        console.out.print(f"page  {html}", markup=False)


def _row(hit: Any) -> dict[str, object]:
    return {
        "rank": hit.rank,
        "similarity": f"{hit.similarity:.4f}",
        "video": hit.video_id,
        "label": hit.label,
        "seconds": hit.duration_s,
        "path": hit.uri,
    }


def _page(query: str, video: Path | None, hits: Any, loaded: Any, ds: Any, settings: Any) -> str:
    from extract.thumbnails import catalogue_thumbnails, video_thumbnails
    from probe.strips import render_search

    frames = catalogue_thumbnails(ds.videos, settings)
    label = None
    if video is not None:
        own = video_thumbnails(video)
    else:
        row = ds.row_of(query)
        own = frames(row)
        label = ds.select(rows=np.array([row])).videos["label"].to_pylist()[0]
    return render_search(
        query, hits, index=loaded.meta, frames=frames, query_frames=own, query_label=label, stale=loaded.stale
    )


def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", help="A report: report.json, its folder, or a store with one report.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    store: Annotated[
        str | None, typer.Option("--store", help="Take A and B as names of reports in this store instead.")
    ] = None,
    dataset: DatasetOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Every number, not the headline ones alone.")] = False,
    html: HtmlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two runs."""
    from probe.compare import compare_runs, load_stored_run, render_comparison

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
        typer.echo(json.dumps(comparison.as_json() | {"html": None if html is None else str(html)}))
        return
    typer.echo(comparison.text())
    if html is not None:
        typer.echo(f"page  {html}")


def _run_at(place: str, dataset: str | None) -> Any:
    """Load a report from a file or folder, or the only one of a store."""
    from probe.compare import load_run, load_stored_run

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
    return load_stored_run(opened, ds.name, names[0])
