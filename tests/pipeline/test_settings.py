"""Where things run: environment, flags, and how a recipe's input files are found."""

from pathlib import Path

import pytest

from flows.cli import run
from pipeline import FeatureStore
from pipeline.errors import EXIT_BAD_INPUT, InvalidInputError, NotFoundError
from pipeline.roots import check_allowed
from pipeline.settings import Settings


def test_environment_is_read(monkeypatch):
    monkeypatch.setenv("SCALE_STORE", "s3://bucket/x")
    monkeypatch.setenv("SCALE_WORKERS", "3")
    settings = Settings()
    assert (settings.store, settings.workers) == ("s3://bucket/x", 3)
    assert Settings(store="elsewhere").store == "elsewhere"


def test_input_files_are_looked_for_in_order(tmp_path):
    for folder in ("weights", "data", "recipe"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.bin").touch()
    (tmp_path / "data" / "both.bin").touch()
    (tmp_path / "weights" / "both.bin").touch()
    settings = Settings(weights=tmp_path / "weights", data=tmp_path / "data", recipe_dir=tmp_path / "recipe")
    for name in ("weights", "data", "recipe"):
        assert settings.resolve_input(f"{name}.bin", what="file").parent.name == name
    assert settings.resolve_input("both.bin", what="file").parent.name == "weights"
    absolute = tmp_path / "data" / "data.bin"
    assert settings.resolve_input(str(absolute), what="file") == absolute


def test_a_file_that_is_nowhere_names_every_place(tmp_path):
    settings = Settings(weights=tmp_path / "w", data=tmp_path / "d")
    with pytest.raises(NotFoundError, match=r"expected the weights at x\.pt, found no such file") as caught:
        settings.resolve_input("x.pt", what="weights")
    for place in (tmp_path / "w", tmp_path / "d", Path.cwd()):
        assert str(place / "x.pt") in str(caught.value)


@pytest.mark.parametrize(
    ("place", "allowed"),
    [
        ("{root}/store", True),
        ("{root}", True),
        ("file://{root}/store", True),
        ("{root}/../other", False),
        ("{root}-other/store", False),
        ("{root}/link/x", False),
        ("/etc/passwd", False),
        ("relative", False),
        ("s3://bucket/stores", True),
        ("s3://bucket/stores/one", True),
        ("s3://bucket/storesx", False),
        ("s3://bucket/stores/../private", False),
        ("s3://bucket/stores/%2e%2e/private", False),
        ("s3://other/stores", False),
        ("gs://bucket/stores", False),
        ("\0", False),
    ],
)
def test_a_confined_worker_uses_its_places_alone(tmp_path, place, allowed):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to("/etc")
    roots = (str(root), "s3://bucket/stores")
    place = place.format(root=root)
    check_allowed(place, (), what="store")  # nobody is confined unless told so
    if allowed:
        check_allowed(place, roots, what="store")
        return
    with pytest.raises(InvalidInputError, match="expected the store in one of the places that this worker may use"):
        check_allowed(place, roots, what="store")


def test_confined_settings_hold_every_place_against_the_roots(tmp_path, monkeypatch):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "w.pt").touch()
    monkeypatch.setenv("SCALE_ROOTS", f"{inside}, s3://bucket/x")
    Settings(store=str(inside / "s"), data=inside, weights=inside).check_places(inside / "r.yaml")
    Settings(store="s3://bucket/x/s").check_places()
    for wrong, what in (
        ({"store": str(outside)}, "store"),
        ({"store": str(inside), "data": outside}, "data folder"),
        ({"store": str(inside), "weights": outside}, "weights folder"),
    ):
        with pytest.raises(InvalidInputError, match=f"expected the {what} in one of the places"):
            Settings(**wrong).check_places()
    with pytest.raises(InvalidInputError, match="expected the recipe"):
        Settings(store=str(inside)).check_places(outside / "r.yaml")
    settings = Settings(store=str(inside), weights=inside)
    assert settings.resolve_input("w.pt", what="weights") == inside / "w.pt"
    with pytest.raises(InvalidInputError, match="expected the weights"):
        settings.resolve_input(str(outside / "w.pt"), what="weights")


@pytest.mark.parametrize("verb", [["info"], ["sql", "SELECT 1"]])
def test_a_bare_address_of_a_store_is_held_to_the_roots_too(tmp_path, monkeypatch, capsys, verb):
    inside, outside = tmp_path / "in", tmp_path / "out"
    FeatureStore.create(inside / "s")
    FeatureStore.create(outside / "s")
    (inside / "link").symlink_to(outside)
    monkeypatch.setenv("SCALE_ROOTS", str(inside))
    command, *rest = verb
    for place in (outside / "s", inside / "link" / "s", "s3://bucket/store"):
        assert run([command, str(place), *rest]) == EXIT_BAD_INPUT
        assert "SCALE_ROOTS" in capsys.readouterr().err
    assert run(["info", str(inside / "s")]) == 0
    with pytest.raises(InvalidInputError, match="SCALE_ROOTS"):
        FeatureStore.open(outside / "s")
    assert run(["backup", str(inside / "s"), str(outside / "b")]) == EXIT_BAD_INPUT


def test_settings_that_cannot_be_are_said_in_a_line(monkeypatch):
    with pytest.raises(InvalidInputError, match=r"data: expected a folder, found s3:/b/c; write addresses"):
        Settings(data="s3://b/c")
    monkeypatch.setenv("SCALE_WORKERS", "many")
    with pytest.raises(InvalidInputError, match=r"SCALE_\.\.\. in the environment\): workers: .*integer"):
        Settings()
