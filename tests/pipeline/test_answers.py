"""Answers of queries: names that differ, strict JSON, parameters, and tables about sets, shards and vectors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import FeatureStore
from pipeline.errors import InvalidInputError, QueryError
from pipeline.exchange.export import write_table
from pipeline.query.results import distinct_names, json_rows, json_text, plain_answer
from tests.support.stores import FEATURE_SET, fill, fill_embeddings, make_store

NUM_VIDEOS = 20
LABELS = [("run", "walk")[i % 2] for i in range(NUM_VIDEOS)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    made = make_store(
        tmp_path_factory.mktemp("answers") / "s", num_videos=NUM_VIDEOS, num_crops=3, dim=5, labels=LABELS,
        splits=["train"] * 12 + ["test"] * 8, statuses={4: "unreadable"},
    )  # fmt: skip
    fill_embeddings(made, "scale", np.arange(NUM_VIDEOS * 4, dtype=np.float32).reshape(NUM_VIDEOS, 4) + 1)
    return FeatureStore.open(made.url)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a_1", "a_2"]),
        (["a", "a", "a_1"], ["a", "a_2", "a_1"]),
        (["A", "a"], ["A", "a_1"]),
    ],
)
def test_equal_names_are_told_apart(names: list[str], expected: list[str]) -> None:
    assert distinct_names(names) == expected


def test_a_join_keeps_every_column_everywhere(store: FeatureStore, tmp_path: Path) -> None:
    query = (
        "SELECT a.row, a.status, 'x' AS status, * FROM toy.ledger a JOIN toy.videos v USING (row) ORDER BY 1 LIMIT 2"
    )
    table = store.sql(query)
    assert len(set(table.column_names)) == table.num_columns
    assert table["status_1"].to_pylist() == ["x", "x"]
    for name in ("t.parquet", "t.csv", "t.jsonl"):
        write_table(table, tmp_path / name)
    assert pq.read_table(tmp_path / "t.parquet").column_names == table.column_names
    assert (tmp_path / "t.csv").read_text().splitlines()[0].count(",") == table.num_columns - 1
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [table.column_names] * 2
    assert lines[0]["splits"] == {"1": "train"}


def test_numbers_are_numbers_and_json_is_json(store: FeatureStore, tmp_path: Path) -> None:
    table = store.sql("""SELECT sum(row) AS s, 'nan'::DOUBLE AS x, '-inf'::DOUBLE AS y, interval 90 minute AS i,
        NULL AS n, 1.50::DECIMAL(5,2) AS d, sum(170141183460469231731687303715884105727 // 10) AS big, 'ab'::BLOB AS b,
        'u'::ENUM('u', 'v') AS e, [1.5, 'nan'::DOUBLE] AS list, {'a': [map {'k': 1}]} AS deep,
        gen_random_uuid() IS NOT NULL AS u, DATE '2026-01-02' AS day FROM toy.videos WHERE row < 3""")
    assert table["s"].type == pa.int64()
    row = json.loads(json_text(json_rows(table)), parse_constant=pytest.fail)[0]
    assert (row["s"], row["x"], row["y"], row["n"], row["d"]) == (3, None, None, None, 1.5)
    assert row["list"] == [1.5, None]
    assert row["deep"] == {"a": [{"k": 1}]}
    assert (row["e"], row["day"], row["b"], row["i"]) == ("u", "2026-01-02", "6162", "5400 s")
    assert isinstance(row["big"], int)
    for name in ("t.parquet", "t.csv", "t.jsonl"):
        assert write_table(table, tmp_path / name).stat().st_size > 0


def test_an_empty_answer_is_an_answer() -> None:
    assert plain_answer(pa.table({"a": pa.array([], pa.decimal128(38, 0))})).num_rows == 0


def test_parameters_hold_anything(store: FeatureStore) -> None:
    evil = "o'b\"; DROP TABLE videos; --"
    found = store.sql(
        "SELECT $name AS n, count(*) AS c FROM toy.videos WHERE label = $label", {"name": evil, "label": "run"}
    )
    assert found.to_pylist() == [{"n": evil, "c": 10}]
    assert store.sql("SELECT row FROM toy.videos WHERE row < ? ORDER BY 1 LIMIT ?", [5, 2])["row"].to_pylist() == [0, 1]
    dataset = store.dataset("toy")
    assert len(dataset.select("label = $l AND row < $n", params={"l": "walk", "n": 6})) == 3
    for query, params in (("SELECT $a AS a", None), ("SELECT 1 AS a", {"a": 1}), ("SELECT $a AS a", "text")):
        with pytest.raises(QueryError):
            store.sql(query, params)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="condition"):
        dataset.select(params=[1])


def test_seconds_of_one_decoding_count_once(tmp_path: Path) -> None:
    """Both feature sets were written by one decoding, which each ledger states in full."""
    from pipeline import RowStatus
    from tests.support.stores import make_geometry

    store = make_store(tmp_path / "s", num_videos=2, feature_set="a")
    for name in ("b", "c"):
        writer = store.dataset("toy").writer("train16", name, {"backbone": name}, 16)
        for task in writer.todo():
            lines = [RowStatus(int(row), "ok", seconds=3.5 + row) for row in task.rows]
            n = len(task.rows)
            writer.write(task, np.ones((n, 4, 16)), np.ones((n, 4), bool), make_geometry(task.rows, 4), lines)
    found = store.sql("SELECT row, sum(seconds) AS s FROM toy.ledger GROUP BY row ORDER BY row").to_pylist()
    assert found == [{"row": 0, "s": 3.5}, {"row": 1, "s": 4.5}]


def test_sets_say_what_they_are_made_of_and_how_large_they_are(store: FeatureStore) -> None:
    features, embeddings = store.sql("SELECT * FROM toy.sets ORDER BY kind DESC").to_pylist()
    on_disk = sum(p.stat().st_size for folder in ("features/fake", "ledger/fake")
                  for p in (Path(store.url) / "toy/crops/train16" / folder).rglob("*") if p.is_file())  # fmt: skip
    assert features["bytes"] == on_disk
    assert features["weights"] == "0" * 64
    assert (features["backbone"], features["shards_done"], features["dim"]) == ("fake", 3, 5)
    assert json.loads(features["policy"])["num_crops"] == 3
    assert json.loads(features["decoder"])["name"] == "none"
    assert (embeddings["kind"], embeddings["name"], embeddings["crops"]) == ("embeddings", "scale", None)


def test_shards_say_when_where_and_by_whom(store: FeatureStore) -> None:
    found = store.sql("SELECT * FROM toy.shards WHERE kind = 'features' ORDER BY shard").to_pylist()
    assert [(s["row_start"], s["row_stop"]) for s in found] == [(0, 8), (8, 16), (16, 20)]
    assert dict(found[0]["statuses"]) == {"ok": 7, "unreadable": 1}
    assert all(s["written_at"] is not None and s["machine"] and s["run"].startswith(s["machine"]) for s in found)
    counted = store.sql("SELECT embedding, status, count(*) AS n FROM toy.embedding_ledger GROUP BY ALL").to_pylist()
    assert counted == [{"embedding": "scale", "status": "ok", "n": NUM_VIDEOS}]


def test_vectors_are_arrays_that_sql_computes_with(store: FeatureStore) -> None:
    block = store.dataset("toy").select().features("train16", FEATURE_SET)
    mean = block.values.astype(np.float32).mean(axis=1)
    found = store.sql('SELECT row, num_valid, vector FROM toy."train16/fake" ORDER BY row')
    assert found.schema.field("vector").type == pa.list_(pa.float32(), 5)
    assert found["vector"][4].as_py() is None
    np.testing.assert_allclose(found["vector"][7].as_py(), mean[7], rtol=1e-6)

    classes = store.sql('SELECT label, mean_vector(vector) AS m FROM toy."train16/fake" GROUP BY label ORDER BY label')
    kept = [i for i in range(NUM_VIDEOS) if LABELS[i] == "run" and i != 4]
    np.testing.assert_allclose(classes["m"][0].as_py(), mean[kept].mean(axis=0), rtol=1e-5)

    near = store.sql(
        'SELECT row, cosine(vector, (SELECT vector FROM toy."train16/fake" WHERE row = $row)) AS c '
        "FROM toy.\"train16/fake\" WHERE label = 'walk' AND row <> $row ORDER BY c DESC LIMIT 1",
        {"row": 3})  # fmt: skip
    unit = mean / np.linalg.norm(mean, axis=1, keepdims=True).clip(1e-9)
    scores = {i: float(unit[i] @ unit[3]) for i in range(NUM_VIDEOS) if LABELS[i] == "walk" and i != 3}
    best = max(scores, key=lambda i: scores[i])
    assert near["row"].to_pylist() == [best]
    assert math.isclose(near["c"][0].as_py(), scores[best], rel_tol=1e-5)
    assert store.sql('SELECT count(*) AS n FROM toy."train16/fake/crops"')["n"].to_pylist() == [19 * 3]
    assert store.sql('SELECT vector FROM toy."embeddings/scale" WHERE row = 1')["vector"].to_pylist() == [[5, 6, 7, 8]]


def test_show_tables_names_the_vectors_and_a_path_is_still_refused(store: FeatureStore) -> None:
    names = store.sql("SHOW TABLES")["table"].to_pylist()
    assert {"videos", "sets", "numbers", "predictions", "train16/fake", "embeddings/scale"} <= set(names)
    for query in ('SELECT * FROM toy."train16/nope"', 'SELECT * FROM "/etc/passwd"', 'SELECT * FROM toy."/etc/passwd"'):
        with pytest.raises(QueryError):
            store.sql(query)


def test_a_set_that_grew_answers_with_what_is_there(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", num_videos=4)
    store.dataset("toy").append_videos(__import__("tests.support.stores", fromlist=["x"]).video_table(2, first=4))
    query = 'SELECT count(*) AS n, count(vector) AS v FROM toy."train16/fake"'
    assert store.sql(query).to_pylist() == [{"n": 6, "v": 4}]
    fill(store)
    assert store.sql(query).to_pylist() == [{"n": 6, "v": 6}]
