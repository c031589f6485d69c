"""`scale map`: a flat map of a dataset's videos, kept in the store for the page."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli import console
from flows.cli.options import JsonOption, StoreArgument
from flows.cli.picking import DatasetOption, pick_dataset
from pipeline import FeatureStore
from pipeline.errors import InvalidInputError

SourceOption = Annotated[
    str | None,
    typer.Option("--source", show_default="the first there is", help="'embedding NAME' or 'mean of CROPS/SET'."),
]
MethodOption = Annotated[str, typer.Option("--method", help="pca, or umap (needs the extra 'umap').")]
NameOption = Annotated[str | None, typer.Option("--name", show_default="its method", help="Of the map.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of UMAP.")]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("map", help="Lay the videos out on a flat map, for the page of `scale serve`.")(flat_map)


def flat_map(
    store: StoreArgument,
    source: SourceOption = None,
    method: MethodOption = "pca",
    name: NameOption = None,
    seed: SeedOption = 0,
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compute a map once and keep it."""
    from probe.flat_map import METHODS, make_map, map_sources, save_map

    chosen = next((known for known in METHODS if known == method), None)
    if chosen is None:
        raise InvalidInputError(f"expected a method out of {', '.join(METHODS)}, found {method!r}")
    opened = FeatureStore.open(store, mode="a")
    ds = pick_dataset(opened, dataset)
    picked = source or next(iter(map_sources(ds)), "")
    made = make_map(ds, picked, chosen, seed=seed)
    save_map(ds, name or chosen, made)
    shares = [round(share, 4) for share in made.explained]
    body = {"map": name or chosen, "source": made.source, "method": made.method, "points": len(made.rows),
            "explained": shares, "snapshot": made.snapshot}  # fmt: skip
    if as_json:
        console.print_json(body)
        return
    console.out.print(
        f"map {body['map']} of {made.source}: {len(made.rows)} of {made.num_videos} videos; see it with `scale serve`",
        markup=False,
    )
