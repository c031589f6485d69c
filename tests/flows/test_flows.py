"""The flows against a real, ephemeral Prefect server."""

from __future__ import annotations

import pytest
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.extract_flow import extract
from flows.parameters import ExtractOptions, Where, find_recipe, open_run
from flows.pipeline_flow import pipeline
from flows.stage_flows import catalog
from flows.tasks import is_transient
from flows.verify_flow import verify
from pipeline import FeatureStore
from pipeline.errors import CorruptDataError, RecipeError, StorageError
from pipeline.store.runs import list_runs
from tests.flows.conftest import Job

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]


def where(job: Job) -> Where:
    return Where(store=str(job.store), data=str(job.data), device="cpu", workers=1)


def artifacts(key: str) -> list[str]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return [str(a.data) for a in found]


def test_the_whole_pipeline_then_nothing_then_only_what_is_new(job: Job) -> None:
    state = pipeline(str(job.recipe), where(job), return_state=True)
    first = state.result()["did"]
    assert state.name == "Completed"
    assert "in doubt: model scale: training ended at chance" in state.message  # two epochs teach nothing
    assert "### Doubts" in artifacts("run-tiny")[0]
    assert first["catalog"]["videos_new"] == 12
    assert first["extract"]["shards_done"] == 12  # six shards of two feature sets
    assert first["train"]["models_trained"] == 1
    assert first["probe"]["probes_run"] == 1
    assert "new feature set" in artifacts("plan-tiny-extract")[0]
    assert "shards done" in artifacts("report-tiny-extract")[0]
    assert "frames |" in artifacts("report-tiny-extract")[0]  # throughput
    assert "12 shards done" in artifacts("run-tiny")[0]
    assert artifacts("probes-tiny")
    assert ".html" in artifacts("html-tiny")[0]

    again = pipeline(str(job.recipe), where(job))["did"]
    assert (again["catalog"]["videos_new"], again["extract"]["shards_done"]) == (0, 0)
    assert (again["extract"]["shards_skipped"], again["train"]["models_trained"]) == (12, 0)

    job.add_videos("w", [21])
    later = pipeline(str(job.recipe), where(job), stages=["catalog", "extract"])["did"]
    assert set(later) == {"catalog", "extract"}
    assert (later["catalog"]["videos_new"], later["extract"]["shards_done"]) == (2, 2)


@pytest.mark.slow
def test_single_shards_and_a_deleted_ledger_entry(job: Job) -> None:
    pipeline(str(job.recipe), where(job), stages=["catalog"])
    some = extract(str(job.recipe), where(job), ExtractOptions(shards=[1, 3]))
    assert some["did"]["shards_done"] == 4
    status = FeatureStore.open(str(job.store)).dataset("set").status("grid", "tiny").to_pylist()
    assert {row["shard"] for row in status if row["status"] != "pending"} == {1, 3}
    extract(str(job.recipe), where(job))
    entry = next((job.store / "set" / "crops" / "grid" / "ledger" / "tiny").glob("*2-*.parquet"))
    entry.unlink()
    redone = extract(str(job.recipe), where(job))
    assert redone["did"]["shards_done"] == 1
    catalog(str(job.recipe), where(job))
    store = FeatureStore.open(str(job.store))
    runs = [{stage: dict(did) for stage, did in one.did.items()} for one in list_runs(store.backend, "set")]
    assert sorted(next(iter(did)) for did in runs) == ["catalog"] * 2 + ["extract"] * 3
    assert sorted(did["extract"]["shards_done"] for did in runs if "extract" in did) == [
        1,
        4,
        8,
    ]  # a stage alone is a run, too


@pytest.mark.slow  # a Prefect run each; the pipeline above is the fast one
def test_verify_fails_when_a_byte_flipped_and_repairs_when_told(job: Job) -> None:
    pipeline(str(job.recipe), where(job), stages=["catalog", "extract"])
    assert verify(where(job))["clean"]
    shard = next((job.store / "set/crops/grid/features/tiny/values").glob("c.*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 0x40
    shard.write_bytes(data)
    with pytest.raises(CorruptDataError, match="see the artifact"):
        verify(where(job))
    verify(where(job), repair=True)
    assert extract(str(job.recipe), where(job))["did"]["shards_done"] >= 1
    assert verify(where(job))["clean"]


def test_a_wrong_recipe_fails_at_once(job: Job, tmp_path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: x\nunknown: 1\n")
    with pytest.raises(RecipeError, match="unknown key"):
        pipeline(str(broken), where(job))


def test_only_transient_errors_are_tried_again() -> None:
    class State:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def result(self, raise_on_failure: bool = True) -> Exception:
            return self.error

    assert is_transient(None, None, State(StorageError("disk")))
    assert is_transient(None, None, State(ConnectionResetError()))
    assert not is_transient(None, None, State(RecipeError("x")))
    assert not is_transient(None, None, State(CorruptDataError("x")))
    assert not is_transient(None, None, State(FileNotFoundError()))


def test_what_is_left_empty_comes_from_the_worker(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SCALE_STORE", str(tmp_path / "s"))
    monkeypatch.setenv("SCALE_DEVICE", "cpu")
    monkeypatch.setenv("SCALE_WORKERS", "3")
    settings = Where().settings()
    assert (settings.store, settings.device, settings.workers) == (str(tmp_path / "s"), "cpu", 3)
    assert Where(device="cuda", workers=1).settings().device == "cuda"
    assert Where(workers=1).settings().workers == 1


def test_shipped_recipes_are_found_by_name(tmp_path) -> None:
    assert find_recipe("demo").name == "demo.yaml"
    recipe, store, settings = open_run("demo", Where(store=str(tmp_path / "s")))
    assert (recipe.name, store.mode, settings.device) == ("demo", "a", "auto")
