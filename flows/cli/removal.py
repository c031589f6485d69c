"""The command `scale remove`: videos or a whole feature set leave the store."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import typer

from flows.cli import console
from flows.cli.asking import ParamOption, parse_params
from flows.cli.options import DryRunOption, JsonOption, StoreArgument
from flows.cli.picking import DatasetOption, WhereOption, pick_dataset
from pipeline import Dataset, FeatureStore
from pipeline.errors import InvalidInputError, NotFoundError
from pipeline.names import did_you_mean
from pipeline.store.withdrawal import unfinished

MAX_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("remove", help="Take videos out of every answer, with --erase out of every byte; or a feature set.")(
        remove
    )


def remove(
    store: StoreArgument,
    where: WhereOption = None,
    params: ParamOption = None,
    ids: Annotated[
        list[str] | None, typer.Option("--id", show_default="none", help="A video id; may be given more than once.")
    ] = None,
    erase: Annotated[
        bool, typer.Option("--erase", help="Rewrite what holds them. Alone: go on with what was not finished.")
    ] = False,
    features: Annotated[
        str | None,
        typer.Option(
            "--features", metavar="CROPS/FEATURE_SET", show_default="none", help="Delete this feature set whole."
        ),
    ] = None,
    dataset: DatasetOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove videos or features."""
    held = pick_dataset(FeatureStore.open(store, mode="r" if dry_run else "a"), dataset)
    if features is not None:
        if where is not None or ids or erase:
            raise InvalidInputError("expected --features alone, or videos by --where or --id; found both")
        _remove_features(held, features, yes=yes, dry_run=dry_run, as_json=as_json)
        return
    chosen = sum(given is not None for given in (where, ids or None))
    if chosen > 1 or (not chosen and not erase):
        raise InvalidInputError("expected the videos by --where CONDITION or by --id; found both or neither")
    begun = unfinished(held.backend, held.name)
    selection = _chosen(held, where, parse_params(params), ids or [], goes_on=erase and bool(len(begun)))
    listed = selection.videos["video_id"].to_pylist() if selection is not None else []
    said = f"{len(listed)} videos of {held.name}" + (f": {', '.join(listed[:MAX_SHOWN])}" if listed else "")
    said += " ..." if len(listed) > MAX_SHOWN else ""
    if erase and len(begun):
        said += f"; {len(begun)} removed before whose erasure was not finished"
    if dry_run:
        console.out.print(f"would remove{' and erase' if erase else ''} {said}", markup=False)
        return
    if not listed and not (erase and len(begun)):
        console.out.print("nothing to remove", markup=False)
        return
    _confirm(f"Remove {said}?" + (" Erased bytes do not come back." if erase else ""), yes=yes)
    files = [] if selection is None else _files_still_there(selection.videos["uri"].to_pylist())
    num_removed = 0 if selection is None else held.remove_videos(selection.rows, erase=erase)
    erased = held.erase_removed() if erase else None
    if as_json:
        body: dict[str, Any] = {"removed": num_removed, "erased": asdict(erased) if erased else None}
        typer.echo(json.dumps(body | {"files_still_there": files, "snapshot": held.snapshot()}))
        return
    console.out.print(f"{num_removed} videos are in no answer any more", markup=False)
    if erased is not None:
        console.out.print(
            f"{erased.num_rows} rows erased: {erased.num_shards} shards written again, indexes that went: "
            f"{', '.join(erased.indexes) or 'none'}, reports that lost them: {', '.join(erased.reports) or 'none'}",
            markup=False,
        )
        console.out.print("models keep what they learned from them until they are trained again; backups are your own")
    if files:
        console.out.print(
            f"{len(files)} of their files are still there ({files[0]}): delete them, or a run of the recipe catalogues "
            "them as new videos",
            markup=False,
        )


def _chosen(held: Dataset, where: str | None, params: dict[str, Any] | None, ids: list[str], *, goes_on: bool) -> Any:
    """Return the selection; None where nothing is chosen. Ids that are unknown may be those of a begun erasure."""
    if where is not None:
        return held.select(where, params=params)
    if not ids:
        return None
    try:
        return held.select(video_ids=ids)
    except NotFoundError:
        if goes_on:
            return None
        raise


def _files_still_there(uris: list[str | None]) -> list[str]:
    paths = (unquote(urlsplit(uri).path) if uri.startswith("file://") else uri for uri in uris if uri)
    return [path for path in paths if Path(path).exists()]


def _remove_features(held: Dataset, text: str, *, yes: bool, dry_run: bool, as_json: bool) -> None:
    crops, _, name = text.partition("/")
    known = [f"{c}/{f}" for c in held.crop_sets() for f in held.feature_sets(c)]
    from pipeline.store.dropping import leftover_ledgers

    leftovers = [f"{c}/{f}" for c, f in leftover_ledgers(held.backend, held.name)]
    if text not in known + leftovers:
        there = ", ".join(known + leftovers) or "none"
        raise NotFoundError(f"expected --features to be one of {there}; found {text!r}{did_you_mean(text, known)}")
    made = [e for e in held.embedding_sets() if held.embedding_info(e).fingerprint.get("feature_set") == name]
    if made:
        console.err.print(f"embeddings made from it stay: {', '.join(made)}", markup=False)
    if dry_run:
        console.out.print(f"would delete feature set {text}", markup=False)
        return
    _confirm(f"Delete feature set {text} of {held.name}?", yes=yes)
    num_bytes = held.drop_features(crops, name)
    if as_json:
        typer.echo(json.dumps({"features": text, "bytes": num_bytes}))
    else:
        console.out.print(f"deleted {text}: {num_bytes / 1e6:.1f} MB", markup=False)


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInputError(f"expected --yes where nobody can be asked, found none. {question}")
    typer.confirm(question, abort=True)
