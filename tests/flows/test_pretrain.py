"""`scale pretrain`: a backbone of one's own feeds extraction, search and audit; a changed one is refused by name."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from extract.backbones import load_backbone
from extract.backbones.stored import bind
from extract.clips.supply import supply_clips
from flows.cli import run
from pipeline import FeatureStore
from pipeline.recipe import ExportedBackbone, PretrainedBackbone, load_recipe
from pipeline.settings import Settings
from tests.flows.conftest import Job
from tests.support.extraction import make_videos

CLIPS = {"policy": "random", "num_crops": 4, "num_frames": 4, "stride": 2, "size_px": 20, "short_side_px": 24}


def recipe_with(**changes: Any) -> dict[str, Any]:
    pretraining = {
        "encoder": {"network": "small", "width": 4, "size_px": 16, "norm": "group"}, "clips": CLIPS, "rows": "all",
        "streams": ["rgb"], "batch_size": 4, "epochs": 4, "reuse": 3, "probe_epochs": 2, "probe_fraction": 0.3,
        "augment": {"area": [0.5, 1.0]}, "head": {"hidden_dim": 16, "projection_dim": 8},
    }  # fmt: skip
    return {
        "name": "own",
        "dataset": {"name": "set", "videos": "**/*.mp4", "labels": {"from": "folder"}, "shard_rows": 8},
        "pretrain": {"mine": pretraining | changes},
        "crops": {"grid": {"policy": "grid", "temporal": 2, "spatial": 1, "num_frames": 4, "stride": 2, "size_px": 16,
                           "short_side_px": 20}},
        "backbones": {"net": {"kind": "pretrained", "model": "mine"}},
        "indexes": [{"name": "default", "crops": "grid", "readout": "mean"}],
    }  # fmt: skip


def write_job(folder: Path, recipe: dict[str, Any]) -> Job:
    made = Job(folder / "own.yaml", folder / "data", folder / "store")
    made.recipe.write_text(yaml.safe_dump(recipe))
    return made


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run with everything done; its store is only looked at."""
    folder = tmp_path_factory.mktemp("own")
    made = write_job(folder, recipe_with())
    make_videos(made.data / "a", [20] * 6)
    make_videos(made.data / "b", [24] * 6, height=48)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALE_CACHE", str(folder / "cache"))
        assert run(["run", *on(made), "-q"]) == 0
    return made


def on(job: Job, recipe: Path | None = None) -> list[str]:
    return [str(recipe or job.recipe), "--data", str(job.data), "--store", str(job.store)]


def changed(folder: Path, **changes: Any) -> Path:
    file = folder / "changed.yaml"
    file.write_text(yaml.safe_dump(recipe_with(**changes)))
    return file


def last(text: str) -> Any:
    return json.loads(text.strip().splitlines()[-1])


def test_it_is_made_once_with_all_that_one_wants_to_look_at(done: Job, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    artifact = FeatureStore.open(done.store).dataset("set").artifact("models", "mine")
    assert {"weights.safetensors", "encoder.json", "metrics.jsonl", "first_batch.png"} <= set(artifact.files)
    records = [json.loads(line) for line in artifact.read("metrics.jsonl").splitlines()]
    assert len(records) == artifact.meta["num_steps"]
    assert [r["epoch"] for r in records if "knn_top1" in r] == [1, 3]
    picture = Image.open(io.BytesIO(artifact.read("first_batch.png")))
    assert picture.size[0] == 4 * 16  # frames to the right, at the size that the network takes
    assert not list((done.store.parent / "cache" / "clips").glob("*"))
    capsys.readouterr()
    assert run(["run", *on(done), "--json", "-q"]) == 0
    did = last(capsys.readouterr().out)["did"]
    assert did["pretrain"] == {"backbones_pretrained": 0, "backbones_skipped": 1, "steps": 0}
    assert did["extract"]["shards_done"] == 0


def test_a_changed_pretraining_is_refused_while_features_are_made_of_it(
    done: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = changed(tmp_path, epochs=5)
    for command in (["run", "--dry-run"], ["pretrain"]):
        assert run([command[0], *on(done, other), *command[1:]]) == 3
        said = " ".join(capsys.readouterr().err.split())
        assert "pretrain.mine.epochs 4 → 5" in said
        assert "grid/net" in said
        assert "another name" in said
    assert run(["pretrain", *on(done, changed(tmp_path, checkpoint_epochs=3)), "--dry-run"]) == 0


def test_a_new_name_is_planned_beside_the_old_one(
    done: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_with()
    recipe["pretrain"]["other"] = recipe["pretrain"]["mine"] | {"epochs": 2}
    recipe["backbones"]["net2"] = {"kind": "pretrained", "model": "other"}
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(recipe))
    assert run(["run", *on(done, file), "--dry-run", "--json"]) == 0
    products = {(p["kind"], p["name"]): p for p in last(capsys.readouterr().out)["products"]}
    assert products["backbone", "mine"]["state"] == "done"
    assert products["backbone", "other"]["state"] == "missing"
    assert products["features", "grid/net"]["state"] == "done"
    assert products["features", "grid/net2"]["why"] == "unknown until pretrain has run"
    assert run(["pretrain", *on(done, file), "--only", "nobody"]) == 3
    assert "expected a pretraining of recipe own (mine, other), found 'nobody'" in capsys.readouterr().err
    assert run(["extract", *on(done, file)]) == 3
    assert "run `scale pretrain` first" in " ".join(capsys.readouterr().err.split())


def test_lineage_and_verify_know_it(done: Job, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(done.store)
    assert run(["lineage", store, "features/grid/net", "--json"]) == 0
    made_of = last(capsys.readouterr().out)["made_of"]
    assert [one["what"].split("@")[0] for one in made_of] == ["backbone mine", "videos set"]
    assert run(["verify", store]) == 0


@pytest.mark.slow
def test_audit_and_search_by_a_video_build_it_from_the_store(done: Job, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(done.store)
    assert run(["audit", store, "--data", str(done.data)]) == 0
    assert run(["search", store, "--video", str(done.data / "a" / "v000.mp4"), "--data", str(done.data), "-q"]) == 0
    assert "v000.mp4" in capsys.readouterr().out


def test_what_a_probe_looks_at_is_decoded_once(done: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(store=str(done.store), data=done.data, cache=tmp_path / "cache", device="cpu")
    spec = load_recipe(done.recipe).pretrain["mine"]
    source = supply_clips(spec, FeatureStore.open(settings.store).dataset("set"), settings, torch.device("cpu")).source
    try:
        assert source.gallery is not None
        looks = [[batch.clips["rgb"] for batch in source.plain(source.gallery.rows)]]
        monkeypatch.setattr(source, "_decode_rows", lambda *_: pytest.fail("decoded again"))
        looks.append([batch.clips["rgb"] for batch in source.plain(source.gallery.rows)])
    finally:
        source.close()
    assert all(torch.equal(a, b) for a, b in zip(*looks, strict=True))


def test_its_file_is_a_backbone_without_the_store(
    done: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = FeatureStore.open(done.store).dataset("set").artifact("models", "mine")
    file = tmp_path / "mine.safetensors"
    file.write_bytes(artifact.read("weights.safetensors"))
    recipe = recipe_with()
    del recipe["pretrain"]
    recipe["backbones"]["net"] = {
        "kind": "pretrained", "weights": {"path": str(file), "sha256": artifact.meta["weights_sha256"]}
    }  # fmt: skip
    other = tmp_path / "file.yaml"
    other.write_text(yaml.safe_dump(recipe))
    assert run(["extract", *on(done, other), "--json", "-q"]) == 0  # the same weights: the features stand
    assert last(capsys.readouterr().out)["did"]["extract"]["shards_done"] == 0


def test_a_name_that_nobody_pretrains_is_an_error(
    done: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_with()
    recipe["backbones"]["net"]["model"] = "elsewhere"
    file = tmp_path / "odd.yaml"
    file.write_text(yaml.safe_dump(recipe))
    assert run(["extract", *on(done, file), "--dry-run"]) == 3
    assert "pretrained backbone elsewhere" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_exported_as_a_program_it_computes_the_same(
    done: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(done.store), "--program", "mine", "--out", str(tmp_path / "mine.h5")]) == 3
    capsys.readouterr()
    assert run(["export", str(done.store), "--program", "mine", "--out", str(tmp_path / "mine.pt2")]) == 0
    section = last(capsys.readouterr().out)["mine"]
    store = FeatureStore.open(done.store).dataset("set")
    own = bind(PretrainedBackbone(kind="pretrained", model="mine"), store)
    clips = torch.randn((3, 3, 4, 16, 16), generator=torch.Generator().manual_seed(0))
    both = [load_backbone(spec, Settings())(clips) for spec in (own, ExportedBackbone.model_validate(section))]
    assert torch.allclose(both[0], both[1], atol=1e-5)
    assert run(["export", str(done.store), "--program", "nobody", "--out", str(tmp_path / "n.pt2")]) == 3


@pytest.mark.slow
def test_two_processes_pretrain_one_backbone(
    done: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made = write_job(tmp_path, recipe_with(amp="off"))
    monkeypatch.setenv("SCALE_CACHE", str(tmp_path / "cache"))
    where = ["--data", str(done.data), "--store", str(made.store)]
    assert run(["catalog", str(made.recipe), *where, "-q"]) == 0
    capfd.readouterr()
    command = ["pretrain", str(made.recipe), *where]
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    assert run([*command, "--processes", "2"]) == 0
    assert capfd.readouterr().out.count("done in") == 1
    two, one = (
        FeatureStore.open(store).dataset("set").artifact("models", "mine") for store in (made.store, done.store)
    )
    records = [[json.loads(line) for line in each.read("metrics.jsonl").splitlines()] for each in (two, one)]
    assert [r["loss"] for r in records[0]] == pytest.approx([r["loss"] for r in records[1]], abs=1e-4)


PRETRAIN = """
import sys
import torch
from flows.pretraining import plan_pretrain, run_pretrain
from pipeline import FeatureStore
from pipeline.events import Progress
from pipeline.recipe import load_recipe
from pipeline.settings import Settings
recipe, store = load_recipe(sys.argv[1]), FeatureStore.open(sys.argv[2], mode="a")
settings = Settings(device="cpu", data=sys.argv[3], progress_s=0, checkpoint_s=0)
def say(event):
    if isinstance(event, Progress):
        print(event.done, flush=True)
report = run_pretrain(plan_pretrain(recipe, store, settings), store, settings, say)
print("resumed", report.details["backbones"]["mine"]["resumed_from"], flush=True)
"""


@pytest.mark.slow
def test_killed_twice_it_ends_with_the_weights_of_an_uninterrupted_one(
    done: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_job(tmp_path, recipe_with())
    monkeypatch.setenv("SCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    assert run(["catalog", str(made.recipe), "--data", str(done.data), "--store", str(made.store), "-q"]) == 0
    command = [sys.executable, "-c", PRETRAIN, str(made.recipe), str(made.store), str(done.data)]
    for after in (2, 5):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip().isdigit() and int(line) >= after:
                    process.kill()
                    break
    last_run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 4 <= int(last_run.stdout.split("resumed ")[1]) <= 5
    killed, whole = (FeatureStore.open(j.store).dataset("set").artifact("models", "mine") for j in (made, done))
    assert killed.files["weights.safetensors"] == whole.files["weights.safetensors"]
    assert killed.read("metrics.jsonl") == whole.read("metrics.jsonl")
