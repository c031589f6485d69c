"""The command `scale` as a person or a script meets it: real processes' worth of arguments, one interpreter."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli import app, run
from flows.cli.stages import parse_shards
from pipeline import FeatureStore
from pipeline.errors import EXIT_PARTIAL, InvalidInputError
from tests.flows.conftest import Job
from tests.support.services import wait_until

SCALE = Path(sys.executable).parent / "scale"


def scale(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command in this interpreter; return exit code, stdout, stderr."""
    capsys.readouterr()
    code = run([str(a) for a in arguments])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    return code, printed.out, printed.err


def scale_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code, out, err = scale(capsys, *arguments, "--json")
    assert code == 0, out + err
    return json.loads(out.strip().splitlines()[-1])


def on(job: Job) -> list[str]:
    return [str(job.recipe), "--data", str(job.data), "--store", str(job.store), "--quiet"]


def test_run_twice_then_ask_the_store(capsys, job: Job, tmp_path: Path) -> None:
    first = scale_json(capsys, "run", *on(job))
    assert first["did"]["extract"]["shards_done"] == 12
    assert {p["readout"] for p in first["probes"]} >= {"mean", "cls", "joined"}
    for probe in first["probes"]:
        assert {"probe", "readout", "k", "temperature", "top1", "interval", "used", "excluded"} <= set(probe)
    assert Path(first["report"]).is_file()

    second = scale_json(capsys, "run", *on(job))
    assert second["did"]["extract"]["shards_done"] == second["did"]["catalog"]["videos_new"] == 0
    assert second["snapshot"] == first["snapshot"]
    code, out, _ = scale(capsys, "run", *on(job))
    assert code == 0
    assert "nothing to do" in out

    assert scale_json(capsys, "info", job.store)["datasets"][0]["videos"] == 12
    assert all(s["done"] == s["total"] for s in scale_json(capsys, "status", job.store)["feature_sets"])
    counted = scale_json(
        capsys, "sql", job.store, "SELECT label, count(*) AS n FROM set.videos GROUP BY label ORDER BY 1"
    )
    assert counted == [{"label": "a", "n": 6}, {"label": "b", "n": 6}]
    assert len(scale_json(capsys, "query", job.store, "--where", "label = 'a'")) == 6
    for name in ("rows.csv", "rows.parquet"):
        assert scale(capsys, "query", job.store, "--out", tmp_path / name)[0] == 0
        assert (tmp_path / name).stat().st_size > 0
    for name in ("features.npz", "features.h5"):
        assert scale(capsys, "query", job.store, "--features", "grid/tiny", "--out", tmp_path / name)[0] == 0
    assert scale(capsys, "verify", job.store)[0] == 0
    hits = scale_json(capsys, "search", job.store, "--id", "a/v001.mp4", "--k", 3)["hits"]
    assert len(hits) == 3
    assert "a/v001.mp4" not in {hit["video_id"] for hit in hits}


def test_where_no_video_can_be_used_the_exit_code_says_so_every_time(capsys, job: Job) -> None:
    for path in job.data.rglob("*.mp4"):
        path.write_text("this is no video")
    for command in ("catalog", "extract", "extract"):
        code, _, err = scale(capsys, command, *on(job))
        assert code == EXIT_PARTIAL
        assert "not one video can be used" in err
    job.add_videos("good", [20])
    assert scale(capsys, "catalog", *on(job))[0] == 0
    assert scale(capsys, "extract", *on(job))[0] == 0


def test_one_ledger_entry_deleted_redoes_that_shard_alone(capsys, job: Job) -> None:
    scale_json(capsys, "run", *on(job))
    before = FeatureStore.open(str(job.store)).dataset("set").select().features("grid", "tiny").values.copy()
    next((job.store / "set/crops/grid/ledger/tiny").glob("4-*.parquet")).unlink()
    plan = scale_json(capsys, "run", *on(job)[:-1], "--dry-run")["plan"]
    work = next(p for p in plan if p["stage"] == "extract")["work"]
    assert [row["shard"] for row in work] == [4]
    again = scale_json(capsys, "run", *on(job))
    assert again["did"]["extract"]["shards_done"] == 1
    after = FeatureStore.open(str(job.store)).dataset("set").select().features("grid", "tiny").values
    assert (before == after).all()


def test_a_dry_run_leaves_nothing_behind(capsys, job: Job) -> None:
    plan = scale_json(capsys, "run", *on(job), "--dry-run")["plan"]
    assert [p["stage"] for p in plan] == ["catalog", "extract", "train", "embed", "probe", "index"]
    assert not job.store.exists()


def test_bad_videos_are_rows_and_the_run_goes_on(capsys, job: Job) -> None:
    (job.data / "a" / "text.mp4").write_text("this is no video")
    (job.data / "a" / "empty.mp4").touch()
    half = job.data / "b" / "half.mp4"
    half.write_bytes((job.data / "b" / "v000.mp4").read_bytes()[:1500])
    (job.data / "b" / "folder.mp4").mkdir()
    report = scale_json(capsys, "run", *on(job))
    assert report["did"]["extract"]["shards_done"] > 0
    failures = scale_json(capsys, "status", job.store)["failures"]
    assert {"a/text.mp4", "a/empty.mp4", "b/half.mp4"} <= {f["video"] for f in failures}
    assert all(f["error"] for f in failures)
    retried = scale(capsys, "retry", job.store, "--status", "unreadable", "--data", job.data, "--quiet")
    assert retried[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "nowhere.yaml"], 3, "expected a recipe file"),
        (["run"], 2, "Missing argument"),
        (["nonsense"], 2, "No such command"),
        (["info", "nowhere"], 3, "nowhere"),
        (["extract", "demo.yaml", "--shards", "x"], 3, "expected shards"),
        (["search", "nowhere", "--k", "0"], 2, "--k"),
        (["retry", "nowhere", "--status", "bogus"], 3, "expected --status"),
    ],
)
def test_wrong_usage_and_bad_input_have_their_codes(capsys, arguments, code, message) -> None:
    found, out, err = scale(capsys, *arguments)
    assert found == code, out + err
    assert message in " ".join((out + err).split())


def test_an_empty_folder_an_unknown_key_and_a_missing_weight_file(capsys, job: Job, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = scale(capsys, "run", job.recipe, "--data", tmp_path / "empty", "--store", tmp_path / "s", "-q")
    assert code == 3
    assert "expected" in err
    broken = tmp_path / "broken.yaml"
    broken.write_text(job.recipe.read_text() + "\nsurprise: 1\n")
    code, _, err = scale(capsys, "run", broken, "--store", tmp_path / "s")
    assert code == 3
    assert "surprise: unknown key" in err
    other = tmp_path / "other.yaml"
    other.write_text(job.recipe.read_text().replace("tiny.pt2", "gone.pt2"))
    code, out, err = scale(capsys, "run", other, "--data", job.data, "--store", tmp_path / "s2", "--json", "-q")
    assert code == 3
    assert "gone.pt2" in err
    assert json.loads(out.strip().splitlines()[-1])["error"]["type"] == "NotFoundError"


def test_crops_longer_than_the_video_are_a_status_not_a_crash(capsys, job: Job) -> None:
    text = job.recipe.read_text().replace("stride: 2", "stride: 16\n    short: reject")
    job.recipe.write_text(text)
    scale_json(capsys, "catalog", *on(job))
    code, _, err = scale(capsys, "extract", *on(job), "--json")
    assert code == EXIT_PARTIAL, err  # not one video can be used, and a schedule should know
    assert "not one video can be used" in err
    statuses = {f["status"] for f in scale_json(capsys, "status", job.store)["failures"]}
    assert statuses == {"too_short"}


def test_shard_lists() -> None:
    assert parse_shards("3,7") == [3, 7]
    assert parse_shards("2-4,3") == [2, 3, 4]
    assert parse_shards(None) is None
    for text in ("a", "4-2", "1-", "-1", "1.5"):
        with pytest.raises(InvalidInputError):
            parse_shards(text)


def test_every_command_has_help_that_says_what_it_does(capsys) -> None:
    for command in app.registered_commands:
        code, out, _ = scale(capsys, command.name, "--help")
        assert code == 0
        assert command.help
        assert "Usage" in out


def test_it_says_its_version_and_completes(capsys) -> None:
    code, out, _ = scale(capsys, "--version")
    assert code == 0
    assert re.fullmatch(r"scale \d+\.\d+\.\d+\S*\n", out)
    assert "--show-completion" in scale(capsys, "--help")[1]


@pytest.mark.parametrize("setting", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"COLUMNS": "20"}])
def test_any_terminal_is_written_to_without_a_crash(job: Job, setting: dict[str, str]) -> None:
    (job.data / "a" / "Gr\u00f6\u00dfe\x1b[31m.mp4").write_text("no video")
    done = subprocess.run(
        [sys.executable, "-c", "from flows.entry import main; main()", "catalog", str(job.recipe), "--data",
         str(job.data), "--store", str(job.store)],
        capture_output=True, check=False, env={**os.environ, **setting},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"\x1b[31m" not in done.stderr + done.stdout
    assert b"Traceback" not in done.stderr
    assert re.search(rb"^snapshot [0-9a-f]{64}$", done.stdout, re.M), "what is copied is never broken into lines"


INTERRUPTED_WHILE_LOADING = """
import sys
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "flows.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
from flows.entry import main
main()
"""


def test_ctrl_c_while_it_is_being_loaded_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_LOADING], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "error: interrupted before anything was begun.\n")


@pytest.mark.parametrize(
    ("device", "message"),
    [("tpu", "expected a device auto, cpu, cuda or cuda:N, found 'tpu'"), ("cuda:99", "expected the device cuda:99")],
)
def test_a_device_that_is_not_there_is_said_in_one_line(capsys, job: Job, device: str, message: str) -> None:
    code, _, err = scale(capsys, "run", *on(job), "--device", device)
    assert code == 3
    assert message in " ".join(err.split())


@pytest.mark.parametrize("address", ["", "nonsense"])
def test_deploying_to_no_server_says_how_to_get_one(capsys, monkeypatch, address: str) -> None:
    monkeypatch.setenv("PREFECT_API_URL", address)
    code, _, err = scale(capsys, "deploy")
    assert code == 3
    assert "export PREFECT_API_URL=" in err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_ctrl_c_and_kill_end_in_order_and_the_next_run_goes_on(
    capsys, job: Job, number: signal.Signals, code: int
) -> None:
    job.add_videos("long", [200] * 4)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [str(SCALE), "run", *on(job)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ledger = job.store / "set/crops"
    wait_until(lambda: list(ledger.glob("*/ledger/*/*.parquet")) or process.poll() is not None, timeout_s=90,
               what="the first committed shard")  # fmt: skip
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    if process.returncode != 0:  # it may have been done already
        assert process.returncode == code, out + err
        assert "interrupted" in err
        assert "Traceback" not in out + err
    assert scale_json(capsys, "run", *on(job))["did"]["extract"]["videos_failed"] == 0
    status = FeatureStore.open(str(job.store)).dataset("set").status("grid", "tiny")["status"].to_pylist()
    assert set(status) == {"ok"}


def test_a_dry_run_names_each_stage_once(capsys, job: Job) -> None:
    code, out, _ = scale(capsys, "run", *on(job), "--dry-run")
    assert code == 0
    for stage in ("catalog", "extract", "train", "embed", "probe", "index"):
        assert f"{stage}: " in out
        assert f"{stage}: {stage}: " not in out
