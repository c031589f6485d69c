"""Queries: what they answer, and what they may not do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import CorruptDataError, QueryError, ResourceError
from pipeline.query.results import json_rows, json_text
from pipeline.query.sql import SqlTable, run_query, select_rows
from pipeline.storage.schema import CATALOGUE_SCHEMA
from tests.support.s3 import stub_server

ROOT = Path(__file__).parents[2]
EVIL_LABEL = "o'b\"; DROP TABLE videos; --"
LABELS = ["run", "walk", EVIL_LABEL, "run", None]


def catalogue(labels: list[str | None] = LABELS) -> pa.Table:
    blank = dict.fromkeys(CATALOGUE_SCHEMA.names)
    rows = [
        {
            **blank,
            "row": n,
            "video_id": f"a/{n}.mp4",
            "label": label,
            "labels": [label or ""],
            "duration_s": n + 0.5,
            "splits": [("1", "train" if n % 2 else "test")],
        }
        for n, label in enumerate(labels)
    ]
    return pa.Table.from_pylist(rows, CATALOGUE_SCHEMA)


VIDEOS = catalogue()


def selected(table: pa.Table, condition: str) -> np.ndarray:
    return select_rows(table.schema, lambda columns: [table.select(columns)], condition)


TABLES = {("jhmdb", "videos"): SqlTable(VIDEOS.schema, lambda: VIDEOS)}


def test_a_query_answers_as_arrow() -> None:
    found = run_query("SELECT label, count(*) AS n FROM jhmdb.videos GROUP BY label ORDER BY n DESC, label", TABLES)
    assert found.to_pylist()[0] == {"label": "run", "n": 2}
    assert {row["label"] for row in found.to_pylist()} == set(LABELS)


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("label = 'run'", [0, 3]),
        ("splits['1'] = 'train' AND label IN ('run', 'walk')", [1, 3]),
        ("splits['nope'] = 'train'", []),
        ("label IS NULL", [4]),
        ("label = 'o''b\"; DROP TABLE videos; --'", [2]),
        ("duration_s > (SELECT avg(duration_s) FROM videos)", [3, 4]),
        ("list_contains(labels, 'walk')", [1]),
        ("row < 2 -- the rest", [0, 1]),
        ("row < 2 /* ) */", [0, 1]),
        ("true", [0, 1, 2, 3, 4]),
        ("row IN (4, 0)", [0, 4]),
        ("video_id LIKE 'a/%'", [0, 1, 2, 3, 4]),
    ],
)
def test_conditions_select_rows(condition: str, rows: list[int]) -> None:
    found = selected(VIDEOS, condition)
    assert found.dtype == np.int64
    assert found.tolist() == rows


@pytest.mark.parametrize(
    ("condition", "columns"),
    [
        ("label = 'run'", ["row", "label"]),
        ("Splits['1'] = 'train' AND videos.row < 3", ["row", "splits"]),
        ("row IN (SELECT row FROM videos WHERE duration_s > 2)", ["row", "duration_s"]),
        ("EXISTS (SELECT * FROM videos)", None),
        ("EXISTS (FROM videos a JOIN videos b USING (sha256))", None),
        ("row IN (SELECT a.row FROM videos a NATURAL JOIN videos b)", None),
        ("row IN (SELECT c1 FROM videos t(c1))", None),
        ("videos::VARCHAR LIKE '%run%'", None),
    ],
)
def test_a_condition_reads_the_columns_that_it_speaks_of(condition: str, columns: list[str] | None) -> None:
    asked: list[list[str]] = []

    def parts(names: list[str]) -> list[pa.Table]:
        asked.append(names)
        return [VIDEOS.select(names)]

    select_rows(VIDEOS.schema, parts, condition)
    assert asked
    assert all(names == (columns or VIDEOS.column_names) for names in asked)


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "  ",
        None,
        "row = 1; DROP TABLE videos",
        "1=1) UNION SELECT 1 --",
        "1=1) OR (1=1",
        "row = 1 ORDER BY row",
        "row, row",
        "*",
        "lable = 'run'",
        "row > 'x'",
        "label = $1",
        "row > ?",
        "row IN (SELECT 1 FROM read_csv('/etc/passwd'))",
        "row IN (SELECT 1 FROM '/etc/passwd')",
        "EXISTS (FROM read_text('/etc/passwd'))",
        "EXISTS (FROM glob('/*'))",
        "(COPY (SELECT 1) TO '/tmp/x')",
        "a b",
        "row = 1 LIMIT 1",
    ],
)
def test_what_is_no_condition_is_refused(condition: str) -> None:
    with pytest.raises(QueryError):
        selected(VIDEOS, condition)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0"))), max_size=8))
def test_selecting_by_any_label_is_the_obvious_filter(labels: list[str | None]) -> None:
    table = catalogue(labels)
    for wanted in {label for label in labels if label is not None}:
        quoted = "'" + wanted.replace("'", "''") + "'"
        expected = [n for n, label in enumerate(labels) if label == wanted]
        assert selected(table, f"label = {quoted}").tolist() == expected


def _attempts(folder: Path, endpoint: str) -> list[str]:
    secret = folder / "secret.csv"
    return [
        f"SELECT * FROM '{secret}'",
        f'SELECT * FROM "{secret}"',
        "SELECT * FROM 'secret.csv'",
        f"SELECT * FROM read_csv('{secret}')",
        f"SELECT * FROM read_csv_auto(['{secret}'])",
        f"SELECT * FROM read_text('{secret}')",
        f"SELECT * FROM read_blob('{secret}')",
        f"SELECT * FROM read_json('{secret}')",
        f"SELECT * FROM read_parquet('{secret}')",
        f"SELECT * FROM parquet_metadata('{secret}')",
        f"SELECT * FROM sniff_csv('{secret}')",
        f"SELECT * FROM glob('{folder}/*')",
        f"SELECT * FROM query('SELECT * FROM ''{secret}''')",
        f"SELECT * FROM query_table('{secret}')",
        f"WITH x AS (SELECT * FROM read_text('{secret}')) SELECT * FROM x",
        f"SELECT (SELECT content FROM read_text('{secret}'))",
        f"SELECT * FROM jhmdb.videos WHERE label IN (SELECT content FROM read_text('{secret}'))",
        f"COPY (SELECT 1) TO '{folder}/out.csv'",
        f"COPY jhmdb.videos FROM '{secret}'",
        f"EXPORT DATABASE '{folder}/dump'",
        f"IMPORT DATABASE '{folder}'",
        f"ATTACH '{folder}/new.db'",
        "ATTACH ':memory:' AS other; SELECT 1",
        "DETACH memory",
        "INSTALL httpfs",
        f"LOAD '{folder}/x.duckdb_extension'",
        f"SELECT * FROM '{endpoint}/x.parquet'",
        f"SELECT * FROM read_csv('{endpoint}/x.csv')",
        "SELECT * FROM 's3://bucket/x.parquet'",
        "SELECT getenv('SCALE_TEST_SECRET')",
        "SELECT * FROM duckdb_settings()",
        "SELECT current_setting('secret_directory')",
        "SELECT Current_Setting('secret_directory') FROM jhmdb.videos",
        "SELECT system.main.current_setting('secret_directory')",
        "SELECT * FROM jhmdb.videos ORDER BY (SELECT current_setting('secret_directory'))",
        "SELECT getvariable('x')",
        "SELECT sleep_ms(1)",
        "SELECT write_log('x')",
        "SELECT setting FROM pg_catalog.pg_settings",
        "SELECT * FROM pg_settings",
        "SELECT * FROM duckdb_logs",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM which_secret('s3://x', 's3')",
        "SET enable_external_access = true",
        "SET memory_limit = '1GB'; SELECT 1",
        "RESET ALL",
        "PRAGMA database_list",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "CREATE TABLE x AS SELECT 1",
        "CREATE MACRO f() AS TABLE SELECT 1",
        "INSERT INTO jhmdb.videos SELECT * FROM jhmdb.videos",
        "DELETE FROM jhmdb.videos",
        "DROP VIEW jhmdb.videos",
        "UPDATE jhmdb.videos SET label = 'x'",
        "CREATE SECRET s (TYPE s3)",
        "PREPARE p AS SELECT 1",
        "CHECKPOINT",
        "VACUUM",
        "BEGIN",
        "SELECT 1; SELECT 2",
        "SELECT * FROM local_table",
        "SELECT * FROM python_map_function(1)",
        "SELECT * FROM sqlite_scan('x', 'y')",
        "",
        "SELECT \0",
        "selct 1",
    ]


def test_queries_cannot_leave_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret.csv").write_text("a\nTOPSECRET\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALE_TEST_SECRET", "TOPSECRET")
    local_table = pa.table({"a": ["TOPSECRET"]})  # Python's variables are no tables
    with stub_server("none") as (address, server):
        for query in _attempts(tmp_path, address.endpoint):
            with pytest.raises(QueryError) as caught:
                run_query(query, TABLES)
            assert "TOPSECRET" not in str(caught.value), query
        assert server.requests == []
    assert local_table.num_rows == 1
    assert [p.name for p in tmp_path.iterdir()] == ["secret.csv"]
    assert VIDEOS.equals(catalogue())
    assert "TOPSECRET" not in "".join(capfd.readouterr())


def test_duckdb_itself_is_fenced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second fence alone: what a query could do if it got past the parser."""
    monkeypatch.setattr("pipeline.query.sql._check_select", lambda *_: None)
    (tmp_path / "secret.csv").write_text("a\nTOPSECRET\n")
    monkeypatch.chdir(tmp_path)
    with stub_server("none") as (address, server):
        for query in _attempts(tmp_path, address.endpoint):
            try:
                assert "TOPSECRET" not in str(run_query(query, TABLES)), query
            except (QueryError, AttributeError):  # a statement without an answer, such as BEGIN, returns no relation
                continue
        assert server.requests == []
    assert [p.name for p in tmp_path.iterdir()] == ["secret.csv"]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT " + "(" * 5000 + "1" + ")" * 5000,
        "SELECT " + "not " * 20_000 + "true",
        "SELECT " + "case when true then " * 3000 + "1" + " end" * 3000,
        "SELECT 1" + " + 1" * 20_000,
        "SELECT " + "[" * 399 + "1" + "]" * 399,
        "SELECT 1" + "::int" * 10_000,
        "SELECT * FROM range(1)" + " CROSS JOIN range(1)" * 2000,
        "SELECT '" + "x" * 200_000 + "'",
    ],
)
def test_monstrous_queries_are_refused_not_fatal(query: str) -> None:
    with pytest.raises(QueryError):
        run_query(query, TABLES)


def test_messages_help() -> None:
    with pytest.raises(QueryError, match=r'"lable".*\n.*"label"'):
        run_query("SELECT lable FROM jhmdb.videos", TABLES)
    with pytest.raises(QueryError, match=r"tables: jhmdb\.videos"):
        run_query("SELECT * FROM jhmdb.video", TABLES)
    with pytest.raises(QueryError, match=r"tables: jhmdb\.videos"):
        run_query("SELECT * FROM kth.videos", TABLES)
    with pytest.raises(QueryError, match="near 'selct 1'"):
        run_query("selct 1", TABLES)
    with pytest.raises(QueryError, match="read-only"):
        run_query("DROP TABLE x", TABLES)


def test_odd_dataset_names() -> None:
    names = ["my-data", "a.b", "select", "A", "a", "temp", "main", "memory", "information_schema"]
    tables = {(name, "videos"): SqlTable(VIDEOS.schema, lambda: VIDEOS) for name in names}
    for name in ("my-data", "a.b", "select", "main"):
        assert run_query(f'SELECT count(*) AS n FROM "{name}".videos', tables).to_pylist() == [{"n": 5}]
    with pytest.raises(QueryError, match="A and a differ only in case"):
        run_query("SELECT * FROM a.videos", tables)
    for name in ("temp", "memory", "information_schema"):
        with pytest.raises(QueryError):
            run_query(f"SELECT * FROM {name}.videos", tables)
    listed = run_query("SHOW TABLES;", tables).to_pylist()
    assert {"dataset": "my-data", "table": "videos"} in listed


def test_only_the_tables_of_the_query_are_read() -> None:
    asked: list[str] = []

    def table(name: str) -> SqlTable:
        return SqlTable(VIDEOS.schema, lambda: asked.append(name) or VIDEOS)

    tables = {("d", name): table(name) for name in ("videos", "ledger", "geometry")}
    run_query("SELECT 1", tables)
    run_query("DESCRIBE d.ledger", tables)
    assert asked == []
    assert run_query("SELECT count(*) AS n FROM d.videos a JOIN d.videos b USING (row)", tables)["n"].to_pylist() == [5]
    assert set(asked) == {"videos"}


def test_an_error_while_reading_keeps_its_type() -> None:
    def broken() -> pa.Table:
        raise CorruptDataError("the ledger is damaged")

    with pytest.raises(CorruptDataError, match="the ledger is damaged"):
        run_query("SELECT * FROM d.ledger", {("d", "ledger"): SqlTable(VIDEOS.schema, broken)})


def test_nothing_is_printed_at_exit() -> None:
    script = (
        "from tests.pipeline.test_sql import *\n"
        "print(run_query('SELECT count(*) AS n FROM jhmdb.videos', TABLES).to_pylist())\n"
        "try:\n    run_query('SELECT nope', TABLES)\nexcept QueryError as err:\n    kept = err\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stderr == ""
    assert done.stdout == "[{'n': 5}]\n"


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("SELECT DATE '294246-01-01' AS d", "294246-01-01"),
        ("SELECT DATE '0044-03-15 (BC)' AS d", None),
        ("SELECT TIMESTAMP '294246-01-01 00:00:00' AS d", "294246-01-01T00:00:00.000000"),
        ("SELECT DATE '2020-02-29' AS d", "2020-02-29"),
        ("SELECT TIME '24:00:00' AS d", None),
    ],
)
def test_dates_beyond_python_are_text(query: str, value: str | None) -> None:
    (row,) = json_rows(run_query(query, {}))
    assert isinstance(row["d"], str)
    assert value in (None, row["d"])


WORDS = st.sampled_from(
    ["SELECT", "*", "FROM", "jhmdb.videos", "WHERE", "(", ")", ",", "label", "=", "'x'", '"[/x]"', "AS", "count(*)",
     "1",
     "GROUP BY", "ORDER BY", "UNION", "CAST(row AS DATE)", "DATE '99999-01-01'", "1e400",
     "range(3)", "row // 0", "-", "::HUGEINT", "::INTERVAL", "[1]", "{'a': 1}", "--", "/*", ";", "$x", "\x1b[2J",
     "splits['1']", "unnest(labels)", "WITH x AS", "x", "LIMIT", "1000000000000", "NULL", "LATERAL", "PIVOT", "\ud800"]
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(words=st.lists(WORDS | st.text(max_size=6), max_size=9), start=st.booleans())
def test_any_text_is_answered_or_refused_as_a_query_error(words: list[str], start: bool) -> None:
    query = ("SELECT " if start else "") + " ".join(words)
    try:
        answer = json_text(json_rows(run_query(query, TABLES)))
    except (QueryError, ResourceError) as err:
        answer = json.dumps(str(err))
    assert json.loads(answer) is not None


def test_conditions_asked_at_once_see_their_own_catalogue_alone_and_leave_no_thread() -> None:
    selected(VIDEOS, "true")  # the database that stays is made
    tables = [catalogue([f"label {n}"] * (n + 1)) for n in range(8)]
    num_threads = len(os.listdir("/proc/self/task"))
    with ThreadPoolExecutor(4) as pool:
        asked = [(n, pool.submit(selected, tables[n], f"label = 'label {n}'")) for n in (*range(8), *range(8))]
        assert [len(found.result()) for _, found in asked] == [n + 1 for n, _ in asked]
    until = time.monotonic() + 20  # the pool's threads are gone for Python a moment before they are for the kernel
    while (left := len(os.listdir("/proc/self/task"))) > num_threads and time.monotonic() < until:
        os.sched_yield()
    assert left == num_threads


def test_nothing_of_a_condition_stays_for_the_next() -> None:
    for condition in ("true; CREATE TABLE kept AS SELECT 1", "(CREATE TABLE kept AS SELECT 1)", "set_config('a', 'b')"):
        with pytest.raises(QueryError):
            selected(VIDEOS, condition)
    with pytest.raises(QueryError, match="kept"):
        selected(VIDEOS, "row IN (SELECT * FROM kept)")
    with pytest.raises(QueryError):
        selected(VIDEOS, "current_setting('lock_configuration') = 'true'")
    assert selected(VIDEOS, "extract(timezone_hour FROM now()) = 0").tolist() == [0, 1, 2, 3, 4]


def test_a_list_may_become_rows_among_the_columns() -> None:
    query = "SELECT unnest([1, 2]) AS k, unnest(quantile_cont(row, [0.0, 1.0])) AS at FROM jhmdb.videos"
    assert run_query(query, TABLES)["k"].to_pylist() == [1, 2]
