"""The command `scale label`: labels, splits and groups of catalogued videos, without extracting anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import console
from flows.cli.asking import ParamOption, parse_params
from flows.cli.options import DryRunOption, JsonOption, StoreArgument
from flows.cli.picking import DatasetOption, WhereOption, pick_dataset
from pipeline import Dataset, FeatureStore
from pipeline.errors import InvalidInputError


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("label", help="Give videos other labels, splits or groups; nothing is extracted again.")(label)


def label(
    store: StoreArgument,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            show_default="none",
            help="A list (.csv .tsv .parquet): path or video_id, then label, group, split...",
        ),
    ] = None,
    where: WhereOption = None,
    params: ParamOption = None,
    to: Annotated[
        str | None, typer.Option("--label", show_default="as it is", help="With --where: the label they get.")
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", show_default="as it is", help="With --where: the group they get.")
    ] = None,
    splits: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            metavar="NAME=VALUE",
            show_default="as they are",
            help="With --csv: the split's column; with --where: train, val or test.",
        ),
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(show_default="label", help="With --csv: column of the labels.")
    ] = None,
    group_column: Annotated[
        str | None, typer.Option(show_default="group", help="With --csv: column of the groups.")
    ] = None,
    separator: Annotated[str | None, typer.Option(show_default="none", help="Cuts a text into several labels.")] = None,
    release: Annotated[
        bool, typer.Option("--release", help="Give videos back to their recipe: its next run may label them again.")
    ] = False,
    dataset: DatasetOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Change labels."""
    held = pick_dataset(FeatureStore.open(store, mode="r" if dry_run else "a"), dataset)
    pairs = _pairs(splits)
    notes: tuple[str, ...] = ()
    if csv is not None:
        if where is not None or to is not None or group is not None or release:
            raise InvalidInputError("expected --csv alone, or --where with --label, --group, --split; found both")
        from extract.catalog.relabel import read_label_list

        listed = read_label_list(
            csv, held.videos, label=label_column, group=group_column, splits=pairs, separator=separator
        )
        changes, notes = listed.changes, listed.notes
    elif release:
        rows = set(held.rows_labelled_by_hand())
        changes = {row: {} for row in held.select(where, params=parse_params(params)).rows.tolist() if row in rows}
    else:
        changes = _of_condition(held, where, parse_params(params), to, group, pairs, separator)
    for note in notes:
        console.err.print(note, markup=False)
    done = held.preview_labels(changes) if dry_run else held.change_labels(changes, by="recipe" if release else "hand")
    if as_json:
        body: dict[str, Any] = {"changed": done.num_changed, "same": done.num_same, "example": done.example}
        typer.echo(json.dumps(body | {"notes": list(notes), "snapshot": held.snapshot()}))
        return
    said = f"{done.num_changed} videos {'would change' if dry_run else 'changed'}, {done.num_same} as they were"
    console.out.print(said + (f" ({done.example})" if done.example else ""), markup=False)
    if done.num_changed and not dry_run:
        console.out.print("probes take them with the next `scale run` or `scale probe`; features stay as they are")


def _pairs(texts: list[str] | None) -> dict[str, str] | None:
    if not texts:
        return None
    pairs = [text.partition("=") for text in texts]
    if bad := [
        text for text, (name, equals, value) in zip(texts, pairs, strict=True) if not (name and equals and value)
    ]:
        raise InvalidInputError(f"expected --split NAME=VALUE, such as 1=train, found {bad[0]!r}")
    return {name: value for name, _, value in pairs}


def _of_condition(
    held: Dataset,
    where: str | None,
    params: dict[str, Any] | None,
    to: str | None,
    group: str | None,
    splits: dict[str, str] | None,
    separator: str | None,
) -> dict[int, dict[str, Any]]:
    from pipeline.store.labels import as_labels

    if where is None or (to is None and group is None and splits is None):
        raise InvalidInputError(
            "expected --csv FILE, or --where CONDITION with --label, --group or --split; found neither"
        )
    if bad := sorted(set((splits or {}).values()) - {"train", "val", "test"}):
        raise InvalidInputError(f"expected --split NAME=train, val or test, found {bad[0]!r}")
    changes: dict[int, dict[str, Any]] = {}
    for video in held.select(where, params=params).videos.to_pylist():
        change: dict[str, Any] = {} if to is None else as_labels(to, separator)
        if group is not None:
            change["group"] = group
        if splits:
            change["splits"] = dict(video["splits"] or ()) | splits
        changes[video["row"]] = change
    return changes
