"""The examples of docs/questions.md, run against a real, small store; and labels and withdrawal behind a whole run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import run
from pipeline import FeatureStore
from tests.flows.conftest import make_job

DOC = Path(__file__).parents[2] / "docs" / "questions.md"
pytestmark = pytest.mark.slow
SNAPSHOTS = "SELECT DISTINCT snapshot FROM jhmdb.numbers WHERE crops = 'grid5x3' AND readout = 'mean'"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, program: tuple[Path, str]) -> Path:
    """A folder with a recipe, videos and the store S of the page: two crop sets, embeddings, a report, an index."""
    folder = tmp_path_factory.mktemp("questions")
    job = make_job(folder, program)
    text = job.recipe.read_text()
    for ours, theirs in (("train4", "train16"), ("grid:", "grid5x3:"), ("crops: grid", "crops: grid5x3"),
                         ("backbone: tiny", "backbone: x3d_xs"), ("  tiny:", "  x3d_xs:"),
                         ("name: set", "name: jhmdb")):  # fmt: skip
        text = text.replace(ours, theirs)
    assert {"train16", "grid5x3"} == set(yaml.safe_load(text)["crops"])
    job.recipe.write_text(text)
    (job.data / "a").rename(job.data / "run")
    (job.data / "b").rename(job.data / "walk")
    assert run(["run", str(job.recipe), "--data", str(job.data), "--store", str(folder / "S"), "--quiet"]) == 0
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made / "S", tmp_path / "S")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    code = run([*arguments, "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out.strip().splitlines()[-1], parse_constant=pytest.fail)


def test_every_question_is_asked_and_every_example_runs(capsys, folder: Path) -> None:
    text = DOC.read_text()
    assert sorted(int(n) for n in re.findall(r"^\*\*(\d+)\. ", text, re.MULTILINE)) == list(range(1, 26))
    answers = {}
    for number, command in re.findall(r"^\*\*(\d+)\. [^\n]*\n\n    (scale .*)$", text, re.MULTILINE):
        answers[int(number)] = ask(capsys, *shlex.split(command)[1:])
    assert len(answers) == 24
    assert sum(line["n"] for line in answers[1]) == 12
    assert answers[6][0]["bytes"] > 10_000
    assert {line["name"] for line in answers[11]} == {"slow_r50"}
    assert answers[12][0]["total"] >= answers[12][0]["s"] > 0
    assert all(hit["label"] == "walk" for hit in answers[18]["hits"])
    assert answers[19][0]["similarity"] <= 1
    assert {line["name"] for line in answers[20]} == {"x3d_xs", "scale"}
    assert json.loads(answers[21][0]["policy"])["policy"] in ("grid", "random")
    assert {line["n"] for line in answers[22]} == {12}
    assert all(line["written_at"] and line["machine"] for line in answers[23])
    assert all(line["predicted"] not in line["labels"] for line in answers[24])
    assert all(line["weights"] and line["bytes"] for line in answers[25])
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, str(DOC), "exec"), names)
    assert len(names["items"]) == len(names["frame"]) == names["lake"].height == len(names["values"]) == 6
    assert names["table"].num_rows == 12


def test_corrected_labels_change_the_numbers_and_no_feature(capsys, folder: Path, made: Path) -> None:
    def features() -> dict[str, bytes]:
        root = folder / "S/jhmdb/crops"
        return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}

    before = features()
    (old,) = ask(capsys, "sql", "S", SNAPSHOTS)
    lines = "".join(f"{video},{video.split('/')[0].upper()}\n" for video in
                    FeatureStore.open("S").dataset("jhmdb").videos["video_id"].to_pylist())  # fmt: skip
    Path("new.csv").write_text("path,label\n" + lines + "nowhere.mp4,X\n")
    changed = ask(capsys, "label", "S", "--csv", "new.csv")
    assert (changed["changed"], changed["notes"]) == (12, ["1 of 13 lines match no video: 'nowhere.mp4'"])
    recipe = [str(made / "tiny.yaml"), "--data", str(made / "videos"), "--store", "S", "--quiet"]
    report = ask(capsys, "run", *recipe)
    assert report["did"]["extract"]["shards_done"] == report["did"]["catalog"].get("videos_relabelled", 0) == 0
    labels = ask(capsys, "sql", "S", "SELECT DISTINCT unnest(labels) AS l FROM jhmdb.predictions ORDER BY l")
    assert [line["l"] for line in labels] == ["RUN", "WALK"]
    new = ask(capsys, "sql", "S", SNAPSHOTS)
    assert old not in new
    assert features() == before
    ask(capsys, "label", "S", "--release")
    again = ask(capsys, "run", *recipe)
    assert again["did"]["catalog"]["videos_relabelled"] == 12
    assert again["did"]["extract"]["shards_done"] == 0


def test_a_withdrawn_video_is_in_no_byte_of_a_whole_run(capsys, folder: Path) -> None:
    dataset = FeatureStore.open("S").dataset("jhmdb")
    row = dataset.row_of("run/v001.mp4")
    line = dataset.select(rows=[row]).videos.to_pylist()[0]
    values = dataset.select(rows=[row]).features("grid5x3", "x3d_xs").values[0]
    done = ask(capsys, "remove", "S", "--where", "video_id = $id", "--param", "id=run/v001.mp4", "--erase", "--yes")
    assert (done["removed"], done["erased"]["num_rows"]) == (1, 1)
    for path in (p for p in (folder / "S").rglob("*") if p.is_file()):
        data = path.read_bytes()
        for trace in (b"run/v001", line["sha256"].encode(), values[0].tobytes()):
            assert trace not in data, path
    assert run(["verify", "S"]) == 0
    capsys.readouterr()
    assert run(["search", "S", "--id", "run/v001.mp4", "--quiet"]) == 3
    assert ask(capsys, "sql", "S", "SELECT count(*) AS n FROM jhmdb.videos") == [{"n": 11}]


def test_a_missing_feature_set_is_an_error_and_pending_rows_are_counted(capsys, folder: Path, made: Path) -> None:
    capsys.readouterr()
    assert run(["query", "S", "--features", "grid5x3/nope"]) == 3
    assert "expected --features to be one of" in capsys.readouterr().err
    shutil.copytree(made / "S", folder / "P")
    next((folder / "P/jhmdb/crops/grid5x3/ledger/x3d_xs").glob("0-*.parquet")).unlink()
    assert run(["query", "P", "--features", "grid5x3/x3d_xs", "--out", "x.npz"]) == 0
    assert "12 videos of grid5x3/x3d_xs (2 pending: zeros, with `valid` false)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "stage"), [("indexes/default", "index"), ("models/scale", "train"), ("reports/tiny", "probe")]
)
def test_artefacts_whose_files_are_gone_or_cut_are_made_again(
    capsys, folder: Path, made: Path, kind: str, stage: str
) -> None:
    recipe = [str(made / "tiny.yaml"), "--data", str(made / "videos"), "--store", "S", "--quiet"]
    count = {"index": "indexes_built", "train": "models_trained", "probe": "probes_run"}[stage]
    assert ask(capsys, stage, *recipe)["did"][stage][count] == 0
    files = sorted(p for p in (folder / "S/jhmdb" / kind).iterdir() if p.is_file() and not p.name.startswith("meta"))
    files[0].write_bytes(files[0].read_bytes()[:-3])
    assert ask(capsys, stage, *recipe)["did"][stage][count] == 1
    for file in (p for p in (folder / "S/jhmdb" / kind).iterdir() if p.is_file() and not p.name.startswith("meta")):
        file.unlink()
    assert ask(capsys, stage, *recipe)["did"][stage][count] == 1
    if stage != "probe":  # the report's version before has lost its files for good, and verify says so
        assert run(["verify", "S"]) == 0


def test_tables_say_which_split_and_how_many_neighbours(capsys, folder: Path, made: Path) -> None:
    recipe = [str(made / "tiny.yaml"), "--data", str(made / "videos"), "--store", "S", "--quiet"]
    capsys.readouterr()
    assert run(["probe", *recipe]) == 0
    printed = capsys.readouterr().out
    assert "k=5 " in printed  # 20 were asked for, five train videos exist
    assert "k=20" not in printed
    assert re.search(r"features +split +readout", printed)
    (report,) = ask(capsys, "sql", "S", "SELECT snapshot FROM jhmdb.artifacts WHERE kind = 'reports'")
    assert f"snapshot {report['snapshot']}" in printed
    assert run(["probe", *recipe, "--dry-run"]) == 0
    assert "split" in capsys.readouterr().out


def test_status_names_unreadable_videos_before_there_are_features(capsys, made: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(made / "videos", videos)
    (videos / "run/bad.mp4").write_bytes(b"no video at all")
    recipe = [str(made / "tiny.yaml"), "--data", str(videos), "--store", str(tmp_path / "N"), "--quiet"]
    capsys.readouterr()
    assert run(["catalog", *recipe]) == 0
    found = ask(capsys, "status", str(tmp_path / "N"))
    assert [line["video"] for line in found["failures"]] == ["run/bad.mp4"]
