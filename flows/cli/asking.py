"""Questions to a store: query and sql, and how their answers are printed and written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import console
from flows.cli.options import JsonOption, StoreArgument, StoreOrOnly, check_output, with_store
from flows.cli.picking import DatasetOption, FeaturesOption, WhereOption, pick_dataset, pick_features
from pipeline import FeatureStore
from pipeline.errors import InvalidInputError

OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        show_default="the terminal",
        help="Write here instead: .parquet .csv .jsonl, with features .parquet .npz .h5",
    ),
]
SpreadsheetOption = Annotated[
    bool,
    typer.Option(
        "--spreadsheet", help="For --out FILE.csv: texts that a spreadsheet would run as formulas begin with a quote."
    ),
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="NAME=VALUE",
        show_default="none",
        help="Value for $NAME in the condition or query. Numbers, true, false and null are that; the rest is text, "
        "and so is what stands in double quotes.",
    ),
]
LIMIT_SHOWN = 40
CATALOGUE_COLUMNS_SHOWN = (
    "row",
    "video_id",
    "label",
    "splits",
    "num_frames",
    "duration_s",
    "width",
    "height",
    "probe_error",
)
MIN_COLUMN_WIDTH = 8
"""Where a terminal leaves less for every column of a table, rows are printed one below the other."""


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("query", help="Select videos with a condition; print them, or write them with features.")(query)
    app.command("sql", help="Read-only SQL over catalogue, ledger, sets, reports and vectors.")(sql)


def parse_params(texts: Sequence[str] | None) -> dict[str, Any] | None:
    """Return the values of ``--param NAME=VALUE``, or None where none was given.

    Raises
    ------
    InvalidInputError
        If one has no name, or no equals sign.
    """
    values: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            raise InvalidInputError(f"expected --param NAME=VALUE, such as label=run, found {text!r}")
        values[name] = _scalar(value)
    return values or None


def _scalar(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, list | dict | float) and not _is_number(text) else value


def _is_number(text: str) -> bool:
    return text.strip("-+.eE0123456789") == ""  # not NaN, Infinity, lists, objects


def query(
    store: StoreArgument,
    where: WhereOption = None,
    params: ParamOption = None,
    dataset: DatasetOption = None,
    features: FeaturesOption = None,
    out: OutOption = None,
    spreadsheet: SpreadsheetOption = False,
    as_json: JsonOption = False,
) -> None:
    """Select videos, optionally with their features."""
    from pipeline.exchange.export import write_features, write_table
    from pipeline.exchange.formats import suffixes

    check_output(out)
    held = pick_dataset(FeatureStore.open(store), dataset)
    holds_arrays = out is not None and out.suffix.lower() in suffixes()
    chosen = pick_features(held, features) if features or holds_arrays else None
    selection = held.select(where, params=parse_params(params))
    if out is None:
        table = selection.videos if chosen is None else selection.with_status(*chosen)
        print_arrow(table, as_json, shown=(*CATALOGUE_COLUMNS_SHOWN, *(() if chosen is None else ("status", "error"))))
        return
    if chosen is None:
        write_table(_for(selection.videos, spreadsheet), out)
        console.err.print(f"wrote {len(selection)} videos to {out}", markup=False)
        return
    write_features(selection, out, *chosen)
    console.err.print(f"wrote {describe_written(selection, *chosen)} to {out}", markup=False)


def describe_written(selection: Any, crops: str, feature_set: str) -> str:
    """Return how many videos were written, and how many of them have no features, by status."""
    statuses = selection.with_status(crops, feature_set)["status"].to_pylist()
    without = {s: statuses.count(s) for s in sorted(set(statuses)) if s not in ("ok", "partial", "too_short")}
    text = f"{len(selection)} videos of {crops}/{feature_set}"
    if without:
        text += f" ({', '.join(f'{n} {s}' for s, n in without.items())}: zeros, with `valid` false)"
    return text


def sql(
    store: StoreOrOnly,
    statement: Annotated[
        str | None,
        typer.Argument(
            metavar="QUERY",
            show_default=False,
            help="SELECT ... FROM <dataset>.videos | ledger | sets | ...; SHOW TABLES",
        ),
    ] = None,
    params: ParamOption = None,
    out: OutOption = None,
    spreadsheet: SpreadsheetOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a read-only SQL query."""
    place, text = with_store(store, statement, "QUERY")
    check_output(out)
    table = FeatureStore.open(place).sql(text, params=parse_params(params))
    if out is not None:
        from pipeline.exchange.export import write_table

        write_table(_for(table, spreadsheet), out)
        console.err.print(f"wrote {table.num_rows} rows to {out}", markup=False)
        return
    print_arrow(table, as_json)


def _for(table: Any, spreadsheet: bool) -> Any:
    from pipeline.query.results import without_formulas

    return without_formulas(table) if spreadsheet else table


def print_arrow(table: Any, as_json: bool, shown: Sequence[str] | None = None) -> None:
    """Print a table: JSON in one line, or a table for people, all of its columns unless `shown` names some."""
    from pipeline.query.results import json_rows

    if as_json:
        console.print_json(json_rows(table))
        return
    lines = table.select(list(shown) if shown else table.column_names).slice(0, LIMIT_SHOWN).to_pylist()
    if lines and len(lines[0]) * MIN_COLUMN_WIDTH > console.out.width:
        console.print_records(lines)
    else:
        console.print_table(lines, empty="no rows")
    if table.num_rows > LIMIT_SHOWN:
        console.out.print(f"... {table.num_rows - LIMIT_SHOWN} more rows; --out FILE.parquet writes all")
