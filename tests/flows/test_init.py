"""`scale init`: the recipe that is written suits the folder, is valid, and runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flows.cli import run
from flows.first_recipe.look import FolderLook, look_at
from flows.first_recipe.propose import propose
from pipeline.errors import NoDataError, NotFoundError
from pipeline.recipe import parse_recipe
from tests.support.extraction import make_videos, tiny_program
from tests.support.videos import numbered_frames, write_video


def recipe_of(look: FolderLook):
    return parse_recipe(yaml.safe_load(propose(look, "mine").text))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, two sources each, named as UCF101 names them."""
    folder = tmp_path_factory.mktemp("init") / "clips"
    for label in ("Punch", "YoYo"):
        for group in (1, 2):
            for clip in (1, 2):
                write_video(folder / label / f"v_{label}_g0{group}_c0{clip}.avi", numbered_frames(12))
    (folder / ".hidden.avi").write_bytes(b"x")
    (folder / "notes.txt").write_text("not read")
    return folder


def test_what_is_there_is_seen(clips, tmp_path):
    found = look_at(clips, tmp_path)
    assert len(found.videos) == 8
    assert found.classes == {"Punch": 4, "YoYo": 4}
    assert found.num_groups == 4
    assert found.lists == ("notes.txt",)
    assert found.median_s == pytest.approx(0.4, abs=0.05)


def test_short_clips_and_an_image_network_get_frames_and_moments(clips, tmp_path):
    program, sha256 = tiny_program(tmp_path)
    look = look_at(clips, tmp_path)
    assert [w.sha256 for w in look.weights] == [sha256]
    rank = len(look.weights[0].input_shape)
    recipe = recipe_of(look)
    (backbone,) = recipe.backbones.values()
    assert backbone.input == ("frame" if rank == 4 else "crop")
    assert recipe.dataset.group.pattern == r"([^/]+_g\d+)_c\d+"
    assert Path(backbone.weights.path) == program


def test_nothing_beside_the_videos_is_said(tmp_path):
    make_videos(tmp_path / "flat", [20, 24])
    look = look_at(tmp_path / "flat")
    proposal = propose(look, "mine")
    told = " ".join(proposal.missing)
    assert "labels" in told
    assert "weights" in told
    assert recipe_of(look).dataset.splits.source == "none"


def test_side_folders_are_the_split(tmp_path):
    for side in ("train", "test"):
        make_videos(tmp_path / "d" / side / "a", [20])
        make_videos(tmp_path / "d" / side / "b", [20])
    assert recipe_of(look_at(tmp_path / "d")).dataset.splits.source == "folder"


def test_a_folder_without_videos_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoDataError, match="found none"):
        look_at(tmp_path / "empty")
    with pytest.raises(NotFoundError):
        look_at(tmp_path / "nowhere")


def test_the_command_writes_once_and_leads_on(clips, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["init", str(clips), "--no-estimate"]) == 0
    assert "Next: scale run clips.yaml" in capsys.readouterr().out
    before = (tmp_path / "clips.yaml").read_text()
    assert run(["init", str(clips), "--no-estimate"]) != 0
    assert (tmp_path / "clips.yaml").read_text() == before
    assert run(["catalog", "clips.yaml", "--data", str(clips), "--store", "store", "-q"]) == 0


@pytest.mark.slow
def test_the_written_recipe_runs_to_a_probe_table(clips, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    tiny_program(tmp_path / "weights")
    assert run(["init", str(clips), "--weights", str(tmp_path / "weights"), "--out", "r.yaml"]) == 0
    assert "on this machine" in capsys.readouterr().out
    assert run(["run", "r.yaml", "--data", str(clips), "--store", "store", "-q"]) == 0
    assert "knn" in capsys.readouterr().out
