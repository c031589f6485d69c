"""Audits: clean stores pass, and whatever changed is found."""

from __future__ import annotations

import numpy as np
import pytest

from extract import audit
from pipeline import FeatureStore
from pipeline.errors import InvalidInputError, NotFoundError
from pipeline.settings import Settings
from tests.support.extraction import DEFAULT_CROPS, extract_all, make_videos, tiny_recipe
from tests.support.videos import numbered_frames, write_video


@pytest.mark.parametrize("stream", ["rgb", "tgrad"])
def test_a_clean_store_equals_the_plain_way(tmp_path, program, stream):
    """Also the slow twin of the stage: one crop at a time, one forward pass each."""
    folder = make_videos(tmp_path / "data", [20, 31, 5])
    crops = {**DEFAULT_CROPS, "strong": {**DEFAULT_CROPS["random3"], "area": [0.3, 0.8], "colour": {}}}
    recipe, settings = tiny_recipe(program, crops=crops, streams=(stream,)), Settings(data=folder)
    store, _ = extract_all(recipe, tmp_path / "s", settings)
    for target in recipe.targets():
        report = audit(store, "set", target.crops, target.feature_set, settings, num_crops=5, tolerance=1e-4)
        assert report.is_ok, report.table()
        assert len(report.drifts) == 3
        assert not report.differing
        assert "largest relative drift" in report.summary()


def test_another_video_under_the_same_name_is_found(tmp_path, program):
    folder = make_videos(tmp_path / "data", [20, 31])
    recipe, settings = tiny_recipe(program), Settings(data=folder)
    store, _ = extract_all(recipe, tmp_path / "s", settings)
    write_video(folder / "v000.mp4", 255 - numbered_frames(20, height=40, width=64, seed=0))
    (folder / "v001.mp4").unlink()
    report = audit(FeatureStore.open(store.url), "set", "grid", "tiny", settings, num_crops=4)
    assert not report.is_ok
    assert report.worst > 0.05
    assert [bool(row["why"]) for row in report.table()] == [True, True]
    assert sum(np.isnan(d.relative) for d in report.drifts) == 1


def test_bad_requests(tmp_path, program):
    folder = make_videos(tmp_path / "data", [20])
    store, _ = extract_all(tiny_recipe(program), tmp_path / "s", Settings(data=folder))
    with pytest.raises(NotFoundError):
        audit(store, "set", "grid", "nonsense", Settings(data=folder))
    with pytest.raises(InvalidInputError):
        audit(store, "set", "grid", "tiny", Settings(data=folder), num_crops=0)
