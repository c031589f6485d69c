"""A report of real videos, made by the real stages and opened in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from extract.pixels.thumbnails import catalogue_thumbnails
from pipeline.recipe import parse_recipe
from pipeline.settings import Settings
from probe.pages.report import HTML_FILE
from probe.stage import plan_probe, run_probe
from tests.support import page_checks
from tests.support.browser import Browser
from tests.support.extraction import extract_all

pytestmark = [pytest.mark.service, pytest.mark.shared_data, pytest.mark.slow]

RECIPE = {
    "name": "jhmdb12-one-crop",
    "dataset": {
        "name": "jhmdb12",
        "videos": "clips.csv",
        "labels": {"from": "column", "column": "label"},
        "splits": {"from": "columns"},
        "group": {"from": "column", "column": "group"},
    },
    "crops": {
        "centre": {"policy": "grid", "temporal": 1, "spatial": 1, "num_frames": 4, "stride": 4, "short_side_px": 256,
                   "size_px": 224},
    },
    "backbones": {
        "mobilenet_v2": {
            "kind": "exported",
            "input": "frame",
            "weights": {"path": "../weights/mobilenet_v2_imagenet_features_1280.pt2",
                        "sha256": "44835424a00907735219e91d44a251361f50682afe429c019be12f0bf8e72f9b"},
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
    },
    "probes": [{"kind": "knn", "crops": "centre"}, {"kind": "linear", "crops": "centre", "epochs": 20},
               {"kind": "retrieval", "crops": "centre"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def page_file(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jhmdb12")
    recipe, settings = parse_recipe(RECIPE), Settings(data=shared_data / "jhmdb12")
    store, _ = extract_all(recipe, folder / "store", settings)
    frames = catalogue_thumbnails(store.dataset("jhmdb12").videos, settings)
    report = run_probe(plan_probe(recipe, store, settings), store, settings, frames=frames)
    assert max(result.top1 for result in report.results) > 0.5
    path = folder / HTML_FILE
    path.write_bytes(store.dataset("jhmdb12").artifact("reports", recipe.name).read(HTML_FILE))
    return path


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 1280), (False, 360), (True, 360)])
def test_the_page_of_real_videos(browser: Browser, page_file: Path, dark: bool, width: int) -> None:
    with browser.page(dark=dark, width=width) as page:
        page.open(page_file)
        page_checks.open_all_details(page)
        assert page_checks.broken_images(page) == []
        assert page.evaluate("document.images.length") >= 50
        assert page_checks.contrast(page)["bad"] == []
        assert page_checks.structure_problems(page) == []
        assert page_checks.too_wide(page) == []
        assert page.problems() == []
        assert page.requests() == [page_file.as_uri()]
