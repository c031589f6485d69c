"""What would stop a run is found before it begins, what failed leaves nothing behind, doctor says true things."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from flows.before_work import check_room, remove_empty, store_for_work
from flows.cli import run
from flows.doctor import MIN_FREE_BYTES, describe_room, diagnose
from flows.parameters import Where, open_run
from pipeline import FeatureStore
from pipeline.errors import InvalidInputError, NotFoundError, ResourceError
from pipeline.settings import Settings
from pipeline.storage.backend_local import LocalBackend
from pipeline.verify.verify_store import verify_store
from tests.flows.conftest import Job, make_job


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory, program: tuple[Path, str]) -> Job:
    """A job of which nothing has run."""
    return make_job(tmp_path_factory.mktemp("before"), program)


def changed(job: Job, folder: Path, **sections: object) -> Path:
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(job.recipe.read_text()) | sections))
    return path


@pytest.mark.parametrize("broken", ["data", "empty", "device", "weights", "frames"])
def test_nothing_is_begun_and_nothing_left_behind(capsys, idle: Job, tmp_path: Path, broken: str) -> None:
    (tmp_path / "empty").mkdir()
    backbones = yaml.safe_load(idle.recipe.read_text())["backbones"]
    recipes = {
        "weights": {"backbones": {"tiny": backbones["tiny"] | {"weights": {"path": "no.pt2", "sha256": "a" * 64}}}},
        "frames": {"backbones": {"tiny": backbones["tiny"] | {"num_frames": 64}}},
    }
    recipe = changed(idle, tmp_path, **recipes.get(broken, {}))
    data = {"data": tmp_path / "nowhere", "empty": tmp_path / "empty"}.get(broken, idle.data)
    device = "cuda:9" if broken == "device" else "cpu"
    store = tmp_path / "deep" / "store"
    said = {"data": "nowhere, found none", "empty": "expected", "device": "cuda:9", "weights": "no.pt2", "frames": "64"}
    arguments = ["run", str(recipe), "--data", str(data), "--store", str(store), "--device", device]
    assert run(arguments) == 3
    err = capsys.readouterr().err
    assert said[broken] in err
    assert err.count("error:") == 1
    assert "catalog " not in err
    assert not (tmp_path / "deep").exists()


def test_a_worker_leaves_no_store_behind_either(idle: Job, tmp_path: Path) -> None:
    for where in (Where(data=str(tmp_path / "none")), Where(data=str(idle.data), device="cuda")):
        with pytest.raises((NotFoundError, InvalidInputError), match=r"none|cuda"):
            open_run(str(idle.recipe), where.model_copy(update={"store": str(tmp_path / "s")}))
        assert not (tmp_path / "s").exists()
    assert open_run(str(idle.recipe), Where(data=str(idle.data), store=str(tmp_path / "s")))[1].mode == "a"


@pytest.mark.slow
def test_a_run_that_got_somewhere_keeps_its_store(capsys, idle: Job, tmp_path: Path) -> None:
    recipe = changed(idle, tmp_path, probes=[{"kind": "knn", "crops": "grid", "split": "none"}], train=None, embed=[])
    arguments = [str(recipe), "--data", str(idle.data), "--store", str(tmp_path / "s"), "-q"]
    assert run(["run", *arguments]) == 3
    assert "expected the split 'none'" in capsys.readouterr().err
    assert FeatureStore.open(tmp_path / "s").dataset("set").num_videos == 12


@pytest.mark.parametrize("source", ["nothing.h5", "empty", "broken.h5"])
def test_an_import_that_fails_leaves_no_store(capsys, tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.h5").write_bytes(b"no hdf5")
    assert run(["import", str(tmp_path / "s"), str(tmp_path / source)]) != 0
    assert capsys.readouterr().err.startswith("error:")
    assert not (tmp_path / "s").exists()


def test_only_what_is_empty_and_was_made_goes(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    store = FeatureStore.create(tmp_path / "mine" / "store")
    assert remove_empty(store.backend, tmp_path)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    assert not (tmp_path / "mine" / "store").exists()
    held = FeatureStore.create(tmp_path / "held")
    held.create_dataset("x")
    assert not remove_empty(held.backend, tmp_path)
    assert FeatureStore.open(tmp_path / "held").datasets() == ["x"]


class Meanwhile(LocalBackend):
    """A folder in which another run makes its dataset just before the root's file goes."""

    other: FeatureStore | None = None

    def delete(self, key: str) -> None:
        """Let the other one begin first."""
        if key == "zarr.json" and self.other is not None:
            begins, self.other = self.other, None
            begins.create_dataset("theirs")
        super().delete(key)


@pytest.mark.parametrize("when", ["before the root goes", "after it went"])
def test_a_run_that_fails_takes_no_store_from_under_another(tmp_path: Path, when: str) -> None:
    backend = Meanwhile(tmp_path / "s")
    FeatureStore.create(backend)
    other = FeatureStore.open(tmp_path / "s", mode="a")
    if when == "before the root goes":
        backend.other = other
        assert not remove_empty(backend, tmp_path)
    else:
        assert remove_empty(backend, tmp_path)
        other.create_dataset("theirs")
    assert FeatureStore.open(tmp_path / "s").datasets() == ["theirs"]
    assert verify_store(FeatureStore.open(tmp_path / "s")).is_clean


def test_who_was_second_to_make_a_store_does_not_take_it_away(tmp_path: Path) -> None:
    with suppress(ZeroDivisionError), store_for_work(str(tmp_path / "s")) as first:
        with pytest.raises(KeyError), store_for_work(str(tmp_path / "s")):
            raise KeyError
        assert FeatureStore.open(tmp_path / "s").datasets() == []
        first.create_dataset("x")
        raise ZeroDivisionError
    assert FeatureStore.open(tmp_path / "s").datasets() == ["x"]


@pytest.mark.slow
def test_a_catalogue_that_was_interrupted_is_not_called_done(capsys, idle: Job, tmp_path: Path) -> None:
    store = tmp_path / "s"
    where = [str(idle.recipe), "--data", str(idle.data), "--store", str(store)]
    FeatureStore.create(store).create_dataset("set", shard_rows=2)  # killed before its first commit
    assert run(["extract", *where]) == 3
    assert "run catalog first" in capsys.readouterr().err
    hidden = [path.rename(tmp_path / path.name) for path in sorted(idle.data.rglob("v00[1-5].mp4"))[:5]]
    try:
        assert run(["catalog", *where, "-q"]) == 0
    finally:
        for path in hidden:
            path.rename(idle.data / "a" / path.name)
    capsys.readouterr()
    assert run(["extract", *where]) == 0
    assert "5 videos of the recipe are not in the catalogue" in capsys.readouterr().err
    assert run(["extract", *where]) == 0
    said = capsys.readouterr()
    assert "5 videos of the recipe are not in the catalogue" in said.err
    assert "nothing to do for extract" in said.out
    assert "everything that" not in said.out


@pytest.mark.slow
def test_a_search_by_a_video_speaks_of_the_search_alone(capsys, idle: Job, tmp_path: Path) -> None:
    recipe = changed(idle, tmp_path, probes=[])
    store = tmp_path / "s"
    assert run(["run", str(recipe), "--data", str(idle.data), "--store", str(store), "-q"]) == 0
    before = FeatureStore.open(store).dataset("set").snapshot()
    capsys.readouterr()
    video = idle.data / "a" / "v000.mp4"
    assert run(["search", str(store), "--video", str(video), "--k", "2"]) == 0
    said = capsys.readouterr()
    assert "a/v000.mp4" in said.out
    assert not {word for word in ("catalog", "extract", "1 new", "shards") if word in said.err + said.out}
    assert FeatureStore.open(store).dataset("set").snapshot() == before
    assert run(["search", str(store), "--video", str(video), "--html", str(tmp_path / "no" / "x.html")]) == 3
    assert "expected a folder to write x.html into" in capsys.readouterr().err


def test_a_full_disk_is_said_before_and_by_doctor(tmp_path: Path) -> None:
    check_room(str(tmp_path / "s"))
    check_room("s3://bucket/store", needed_bytes=1 << 62)  # nobody can say
    with pytest.raises(ResourceError, match="free for the store in"):
        check_room(str(tmp_path / "not" / "there"), needed_bytes=1 << 62)
    assert describe_room(tmp_path, 0).result == "fail"
    assert describe_room(tmp_path, MIN_FREE_BYTES).result == "warn"
    assert describe_room(tmp_path, 1 << 40).result == "ok"


def test_doctor_says_true_things_of_what_is_not_there(capsys, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")

    def found(check: str, **settings: object) -> tuple[str, str]:
        one = next(f for f in diagnose(Settings.model_validate({"device": "cpu", **settings})) if f.check == check)
        return one.result, one.found

    missing = str(tmp_path / "a" / "store")
    assert found("store", store=missing) == (
        "ok",
        f"no store at {missing} yet; a run makes it; {tmp_path} can be written",
    )
    FeatureStore.create(tmp_path / "s").create_dataset("toy")
    assert "is a store with 1 dataset(s): toy" in found("store", store=str(tmp_path / "s"))[1]
    assert found("store", store=str(file))[0] == "fail"
    assert found("device", store=missing, device="cuda:9")[0] == "fail"
    assert found("videos", store=missing, data=tmp_path / "none") == ("fail", f"{tmp_path / 'none'}: no such folder")
    assert run(["doctor", missing, "--device", "cpu", "--weights", str(tmp_path / "none"), "--json"]) == 1
    assert {f["check"]: f["result"] for f in json.loads(capsys.readouterr().out)}["weights"] == "fail"
    assert not (tmp_path / "a").exists()
