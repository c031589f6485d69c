"""Which functions a query may call: those that somebody looked at, whatever a later DuckDB brings."""

from __future__ import annotations

import re

import duckdb
import pytest

from pipeline.errors import QueryError
from pipeline.query.functions import ROW_MAKERS, may_call
from pipeline.query.sql import run_query


def test_no_function_that_nobody_looked_at_may_be_called() -> None:
    """All that this DuckDB has: a later one may bring more, which is refused until it stands on the list."""
    found = duckdb.connect().execute("SELECT DISTINCT function_type, lower(function_name) FROM duckdb_functions()")
    kinds: dict[str, set[str]] = {}
    for kind, name in found.fetchall():
        kinds.setdefault(kind, set()).add(name)
    assert not ROW_MAKERS - kinds["table"]
    tables = sorted((kinds["table"] | kinds["table_macro"]) - ROW_MAKERS)
    for name in {*tables[::12], "read_text", "query", "which_secret", "parquet_scan"}:
        with pytest.raises(QueryError, match=f"found a call of {name}|expected SQL"):
            run_query(f"SELECT * FROM {name}('x')", {})
    callable_names = set().union(*(kinds[kind] for kind in ("scalar", "aggregate", "macro", "window")))
    telling = re.compile(
        "file|read|write|glob|http|secret|setting|env|variable|attach|install|load|extension|connection|session|"
        "privilege|sleep|execute|query|schema|database|version|current_user|^pg_|^inet_|^__|log_|val$"
    )
    allowed = {name for name in callable_names if may_call(name)}
    of_texts = {"formatreadabledecimalsize", "formatreadablesize", "parse_filename", "uuid_extract_version"}
    assert {name for name in allowed if telling.search(name)} == of_texts
    assert len(allowed) > 400
    for name in ("current_setting", "getvariable", "write_log", "sleep_ms", "version", "nextval", "pg_sleep"):
        assert name not in allowed
    for query in ("SELECT version()", "SELECT system.main.getvariable('x')", "SELECT 'x'.current_setting()",
                  "SELECT 1 WHERE nextval('x') > 0", "SELECT sum(1) OVER (ORDER BY sleep_ms(1))"):  # fmt: skip
        with pytest.raises(QueryError, match="found a call of "):
            run_query(query, {})
    with pytest.raises(QueryError, match=r"did you mean lower\(\)"):
        run_query("SELECT loewer('x')", {})
