"""Where things run: environment, flags, and how a recipe's input files are found."""

from pathlib import Path

import pytest

from pipeline.errors import NotFoundError
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
