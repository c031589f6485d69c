"""SQL over the store's tables: DuckDB in memory, locked down before it sees a word of the query.

Three fences, each enough by itself against a query that wants more than the store's tables:

* DuckDB runs with external access off (no files, no network, no extensions, no spill folder), without a view of
  Python's variables, and its configuration is locked;
* the query is parsed first: one SELECT, and no function that is not on a list of those that make values of values
  (:mod:`pipeline.query.functions`), no table function beyond a few that only make rows;
* it runs in a database of its own that holds nothing but views over the store's Arrow tables, and is thrown away; a
  condition, which can make nothing, in a session of its own of a database that is empty.
"""

from __future__ import annotations

import atexit
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from pipeline.errors import PipelineError, QueryError, ResourceError
from pipeline.query.bounds import describe_interruption, held_to_time, memory_setting
from pipeline.query.functions import FUNCTIONS, ROW_MAKERS, may_call
from pipeline.query.results import plain_answer

Params: TypeAlias = Sequence[Any] | Mapping[str, Any] | None
"""Values that a query asks for with ``?``, ``$1`` or ``$name``."""

MAX_QUERY_CHARS = 100_000
MAX_NESTING = 400
"""Deeper than any query a person writes; a parser recurses."""
_CONFIG = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
}
_SHOW_TABLES = """SELECT table_schema AS dataset, table_name AS "table" FROM information_schema.tables
WHERE table_catalog = 'memory' ORDER BY ALL"""  # DuckDB's own answer would list the sources behind the views
_MACROS = (
    """CREATE MACRO mean_vector(v) AS list_transform(
    list_reduce(list(v::DOUBLE[]) FILTER (v IS NOT NULL),
    lambda a, b: list_transform(list_zip(a, b), lambda p: p[1] + p[2])), lambda s: (s / count(v))::FLOAT)""",
    "CREATE MACRO cosine(a, b) AS list_cosine_similarity(a::FLOAT[], b::FLOAT[])",
)
"""What DuckDB lacks for vectors: the mean of those of a group, and a cosine of any two of one length."""
_HINT = "see docs/store.md for the tables and columns"


@dataclass(frozen=True)
class SqlTable:
    """A table that is read only if a query reaches it, and then as a stream."""

    schema: pa.Schema
    read: Callable[[], pa.Table | pa.RecordBatchReader]
    """Called once for every scan of the table."""
    failures: list[PipelineError] = field(default_factory=list)
    """DuckDB turns errors of a stream into text; the first one is kept here."""

    def __arrow_c_schema__(self) -> Any:
        return self.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return pa.RecordBatchReader.from_batches(self.schema, self._batches()).__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            source = self.read()
            yield from source.to_batches(65_536) if isinstance(source, pa.Table) else source
        except PipelineError as err:
            self.failures.append(err)
            raise


def run_query(query: str, tables: Mapping[tuple[str, str], SqlTable], params: Params = None) -> pa.Table:
    """Run one SELECT over the given tables.

    Parameters
    ----------
    query : str
        SQL in DuckDB's dialect.
    tables : mapping of (dataset, table) to SqlTable
        What the query may name, as ``dataset.table``.
    params : sequence or mapping, optional
        Values for ``?``, ``$1`` or ``$name``: never part of the query's text, so they may hold anything.

    Returns
    -------
    pyarrow.Table
        Column names differ (see :func:`pipeline.query.results.plain_answer`).

    Raises
    ------
    QueryError
        If it is not one SELECT, asks for anything but the tables, or does not run; the message says what and where.
    """
    _check_select(query, tables)
    if is_show_tables(query):
        query = _SHOW_TABLES
    with _database() as connection:
        left_out = _create_views(connection, tables)
        for macro in _MACROS:
            connection.execute(macro)
        connection.execute("SET lock_configuration = true")
        with _translated(tables, left_out):
            return plain_answer(connection.sql(query, params=_checked_params(params)).to_arrow_table())


def is_show_tables(query: str) -> bool:
    """Whether the query asks which tables there are."""
    return bool(re.fullmatch(r"\s*show\s+(all\s+)?tables\s*;?\s*", query, re.IGNORECASE))


def _checked_params(params: Params) -> list[Any] | dict[str, Any] | None:
    if params is None:
        return None
    if isinstance(params, str | bytes) or not isinstance(params, Mapping | Sequence):
        raise QueryError(f"expected params as a list or as names with values, found {params!r}")
    return dict(params) if isinstance(params, Mapping) else list(params)


def select_rows(
    schema: pa.Schema, parts: Callable[[list[str]], Iterable[pa.Table]], condition: str, params: Params = None
) -> np.ndarray:
    """Return the rows of the catalogue for which an SQL condition holds.

    Parameters
    ----------
    schema : pyarrow.Schema
        The catalogue's columns.
    parts : callable
        Called for every scan with the columns that the condition speaks of; yields the catalogue piece by piece. Its
        column ``row`` is returned.
    condition : str
        What would stand after WHERE, such as ``"label = 'run' AND splits['1'] = 'train'"``. Subqueries may read
        ``videos``.
    params : sequence or mapping, optional
        Values for ``?``, ``$1`` or ``$name`` in it.

    Returns
    -------
    ndarray of shape (n,), int64
        Ascending.

    Raises
    ------
    QueryError
        If it is anything but one condition, or does not run.
    """
    import duckdb

    if not isinstance(condition, str) or not condition.strip():
        raise QueryError(f"expected an SQL condition such as \"label = 'run'\", found {condition!r}")
    with _translated({}, {}):
        duckdb.SQLExpression(condition)  # refuses further statements, a closed parenthesis, ORDER BY, lists
    # The line break ends a trailing comment, which would swallow the parenthesis.
    query = f"SELECT videos.row FROM videos WHERE (\n{condition}\n)"  # noqa: S608 - checked above and fenced below
    named = _columns_named(_check_select(query), schema.names)
    wanted = pa.schema([schema.field(name) for name in named])

    def read() -> pa.RecordBatchReader:
        batches = (batch for part in parts(named) for batch in part.to_batches(65_536))
        return pa.RecordBatchReader.from_batches(wanted, batches)

    table = SqlTable(wanted, read)
    with _session() as connection:
        connection.register("videos", table)
        with _translated({("", "videos"): table}, {}):
            rows = connection.sql(query, params=_checked_params(params)).to_arrow_table().column(0)
    return np.sort(rows.to_numpy().astype(np.int64, copy=False))


def _columns_named(parsed: Any, names: Sequence[str]) -> list[str]:
    """Return those of the columns that a parsed query speaks of; all where it may mean any, or names one there is not.

    DuckDB then has the same candidates to name in its error.
    """
    said: set[str] = set()
    for node in _nodes(parsed):
        if node.get("class") in ("STAR", "POSITIONAL_REFERENCE") or node.get("type") == "JOIN":
            return list(names)  # a join may match by columns that it does not name
        if node.get("column_name_alias"):
            return list(names)
        if node.get("class") == "COLUMN_REF":
            path = [str(part).lower() for part in node.get("column_names", [])]
            found = {name for name in names if name.lower() in path}
            if not found:
                return list(names)
            said |= found
    return [name for name in names if name in said]


@contextmanager
def _database() -> Iterator[Any]:
    """Open a database for one query, in which views can be made."""
    import duckdb

    connection = duckdb.connect(":memory:", config=_CONFIG | memory_setting())
    try:
        connection.execute("SET TimeZone = 'UTC'")
        with held_to_time(connection):
            yield connection
    finally:
        connection.close()


@contextmanager
def _session() -> Iterator[Any]:
    """Open a session of a database that stays: empty, locked, and of what a session registers the others see nothing.

    To make a database costs 30 ms, a session nothing.
    """
    session = _standing(os.getpid(), tuple(memory_setting().items())).cursor()
    try:
        with held_to_time(session):
            yield session
    finally:
        session.close()


@lru_cache(maxsize=4)
def _standing(pid: int, memory: tuple[tuple[str, str], ...]) -> Any:
    import duckdb

    # The caller's thread alone: DuckDB's own would live until the process ends.
    alone = {"threads": "1", "async_threads": "0"}
    connection = duckdb.connect(":memory:", config={**_CONFIG, **dict(memory), **alone})
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    connection.execute("SET lock_configuration = true")
    atexit.register(connection.close)
    return connection


def _create_views(connection: Any, tables: Mapping[tuple[str, str], SqlTable]) -> dict[str, str]:
    """Make ``dataset.table`` for every table; return the datasets that SQL cannot name, with the reason."""
    import duckdb

    by_folded: dict[str, set[str]] = {}
    for dataset, _ in tables:
        by_folded.setdefault(dataset.lower(), set()).add(dataset)
    left_out: dict[str, str] = {}
    for number, ((dataset, name), table) in enumerate(tables.items()):
        twins = by_folded[dataset.lower()]
        if len(twins) > 1:
            left_out[dataset] = f"datasets {' and '.join(sorted(twins))} differ only in case, which SQL ignores"
            continue
        connection.register(f"__source_{number}", table)
        try:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_quoted(dataset)}")
            connection.execute(f"CREATE VIEW {_quoted(dataset)}.{_quoted(name)} AS FROM main.__source_{number}")
        except duckdb.Error:
            left_out[dataset] = f"{dataset} is a word of SQL's own; use the Python API for this dataset"
    return left_out


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _check_select(query: str, tables: Mapping[tuple[str, str], SqlTable] = MappingProxyType({})) -> Any:
    """Parse, refuse what is not one SELECT over tables, and return the tree."""
    if not isinstance(query, str) or not query.strip():
        raise QueryError("expected an SQL query, found an empty text")
    if len(query) > MAX_QUERY_CHARS or "\0" in query:
        raise QueryError(f"expected at most {MAX_QUERY_CHARS} characters of SQL without NUL, found {len(query)}")
    depth = deepest = 0
    for char in query:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        raise QueryError(f"expected at most {MAX_NESTING} nested parentheses, found {deepest}")
    with _session() as connection, _translated({}, {}):
        (text,) = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchone()
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise QueryError("expected a query of reasonable depth, found one too deeply nested to be checked") from err
    if parsed["error"]:
        message = parsed.get("error_message", "")
        if "Only SELECT" in message:
            raise QueryError("expected one SELECT (the store is read-only for SQL), found another statement")
        position = parsed.get("position")
        where = f" near {query[int(position) : int(position) + 40]!r}" if str(position).isdigit() else ""
        raise QueryError(f"expected SQL, found {message}{where}; {_HINT}")
    if len(parsed["statements"]) != 1:
        raise QueryError(f"expected one SELECT, found {len(parsed['statements'])} statements; run them one by one")
    known = {(dataset.lower(), name.lower()) for dataset, name in tables}
    for node in _nodes(parsed):
        kind = node.get("type")
        called = str(node.get("function_name", "")).lower()
        if node.get("class") in ("FUNCTION", "WINDOW") and not may_call(called):
            near = "".join(f"; did you mean {name}()?" for name in get_close_matches(called, FUNCTIONS, n=1))
            raise QueryError(
                f"expected functions that make values of values, found a call of {called}(); a query may not ask for "
                f"settings, wait, keep state or write{near}"
            )
        if kind == "BASE_TABLE" and (str(node.get("schema_name", "")).lower(), _table_name(node)) not in known:
            _refuse_system_table(node)
        if kind == "TABLE_FUNCTION":
            called = str(node.get("function", {}).get("function_name", "")).lower()
            if called not in ROW_MAKERS:
                raise QueryError(
                    f"expected a query over the store's tables, found a call of {called}(); "
                    "a query may not read files, settings or the network"
                )
        elif (
            kind == "BASE_TABLE"
            and re.search(r"[/\\:*?]", str(node.get("table_name", "")))
            and (str(node.get("schema_name", "")).lower(), str(node["table_name"]).lower()) not in known
        ):
            raise QueryError(
                f"expected the name of a table, found {node['table_name']!r}; a query may not read files or the network"
            )
    return parsed


def _table_name(node: dict[str, Any]) -> str:
    return str(node.get("table_name", "")).lower()


def _refuse_system_table(node: dict[str, Any]) -> None:
    """Refuse the views in which DuckDB tells of itself and of this machine; information_schema tells of the tables."""
    schema, name = str(node.get("schema_name", "")).lower(), _table_name(node)
    if schema == "pg_catalog" or (schema in ("", "main") and name.startswith(("duckdb_", "pg_", "sqlite_", "pragma_"))):
        raise QueryError(f"expected one of the store's tables, found {name}; SHOW TABLES lists them")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)


@contextmanager
def _translated(tables: Mapping[tuple[str, str], SqlTable], left_out: Mapping[str, str]) -> Iterator[None]:
    """Turn DuckDB's errors into QueryError, and errors that reading a table raised into themselves."""
    import duckdb

    try:
        yield
    except (duckdb.Error, pa.ArrowInvalid, OverflowError, ValueError) as err:
        if isinstance(err, PipelineError):
            raise
        if isinstance(err, duckdb.OutOfMemoryException):
            raise ResourceError(
                f"expected a query that fits into memory, found: {str(err).splitlines()[0]}; select fewer rows or "
                "columns, or aggregate them"
            ) from err
        for table in tables.values():
            if table.failures:
                raise table.failures[0] from err
        if isinstance(err, duckdb.InterruptException):
            raise QueryError(describe_interruption()) from err
        text = re.sub(r"\n\s*\n+", "\n", str(err)).strip()
        names = sorted({f"{_quoted_if_needed(d)}.{t}" if d else t for d, t in tables})
        found = f"expected a query that runs, found: {text}"
        if isinstance(err, duckdb.CatalogException) and names:
            shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            found += f"\ntables: {shown}"
        if isinstance(err, duckdb.PermissionException):
            found += "\na query may not read or write files or reach the network"
        mentioned = [r for d, r in left_out.items() if re.search(rf"(?<!\w){re.escape(d)}(?!\w)", text, re.IGNORECASE)]
        found += "".join(f"\n{reason}" for reason in dict.fromkeys(mentioned))
        raise QueryError(f"{found}; {_HINT}") from err


def _quoted_if_needed(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else _quoted(name)
