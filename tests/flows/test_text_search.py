"""Words and videos in one space: search from the shell and the page, zero-shot numbers, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from extract.backbones.text_tower import load_text_tower
from flows.cli import app
from flows.runner import run_recipe
from flows.search import Condition
from flows.serve.app import build_app
from flows.serve.stores import open_stores
from flows.text_search import search_text, text_targets
from pipeline import FeatureStore
from pipeline.errors import InvalidInputError, NotFoundError, RecipeError, ShapeMismatchError, WeightsError
from pipeline.recipe import load_recipe, parse_recipe
from pipeline.recipe.backbones.text import TextTower
from pipeline.settings import Settings
from probe.index.text_search import WordsIndex
from probe.stage import read_report
from tests.support.text_towers import COLOURS, colour_backbone, tokenizer_file
from tests.support.videos import write_video

CROPS = {"grid": {"policy": "grid", "temporal": 2, "spatial": 1, "num_frames": 4, "stride": 2, "size_px": 16,
                  "short_side_px": 20, "cover_tail": True}}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Six videos of three colours, extracted, probed without training, indexed."""
    folder: Path = tmp_path_factory.mktemp("words")
    (folder / "towers").mkdir()
    for c, colour in enumerate(COLOURS):
        for k in range(2):
            frames = np.full((12, 24, 32, 3), 30, np.uint8)
            frames[..., c] = 200 + 20 * k
            (folder / "videos" / colour).mkdir(parents=True, exist_ok=True)
            write_video(folder / "videos" / colour / f"{k}.mp4", frames)
    splits = {"from": "random", "test_fraction": 0.5, "seed": 0}
    content = {
        "name": "words", "crops": CROPS, "backbones": {"colours": colour_backbone(folder / "towers")},
        "dataset": {"name": "set", "videos": "**/*.mp4", "labels": {"from": "folder"}, "shard_rows": 2,
                    "splits": splits},
        "probes": [{"kind": "zero_shot", "crops": "grid", "templates": ["a video of {}", "{}"]}],
    }  # fmt: skip
    (folder / "words.yaml").write_text(yaml.safe_dump(content))
    settings = Settings(data=folder / "videos", device="cpu", workers=1, cache=folder / "cache")
    store = FeatureStore.open_or_create(str(folder / "store"))
    run_recipe(load_recipe(folder / "words.yaml"), store, settings)
    return folder, content, settings


def opened(made) -> FeatureStore:
    return FeatureStore.open(made[0] / "store")


def test_words_find_the_videos_that_they_describe(made):
    for colour in COLOURS:
        found = search_text(opened(made), "set", f"a video of {colour}", made[2], k=2)
        assert {hit.label for hit in found.hits} == {colour}
        assert found.hits[0].similarity > 0.9
    among = search_text(opened(made), "set", "red", made[2], k=9, where=Condition("label <> 'red'"))
    assert len(among.hits) == 4
    assert "red" not in {hit.label for hit in among.hits}


def test_zero_shot_is_measured_without_training(made):
    report = read_report(opened(made).dataset("set"), "words")
    (result,) = report.results
    assert (result.probe, result.num_train, result.top1, result.protocol) == ("zero_shot", 0, 1.0, "zero_shot")
    page = opened(made).dataset("set").artifact("reports", "words").read("report.html").decode()
    assert "Zero-shot" in page
    again = run_recipe(load_recipe(made[0] / "words.yaml"), FeatureStore.open(made[0] / "store", "a"), made[2])
    assert {report.stage: dict(report.did) for report in again.stages}["probe"]["reports_skipped"] == 1


def test_the_shell_takes_words(made):
    arguments = ["search", str(made[0] / "store"), "--text", "green", "--k", "1", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["hits"][0]["label"] == "green"
    html = made[0] / "found.html"
    shown = CliRunner().invoke(app, ["search", str(made[0] / "store"), "--text", "blue", "--html", str(html)])
    assert "mean of grid/colours" in shown.stdout
    assert "blue" in html.read_text()
    for wrong in (["--text", "a", "--id", "b"], [], ["--id", "b", "--features", "grid/colours"]):
        assert CliRunner().invoke(app, ["search", str(made[0] / "store"), *wrong]).exit_code != 0


def test_the_page_and_the_service_take_words(made):
    service = build_app(open_stores([f"s={made[0] / 'store'}"]), made[2])
    with TestClient(service, base_url="http://localhost") as client:
        assert 'name="text"' in client.get("/s/set/search").text
        shown = client.get("/s/set/search", params={"text": "<b>blue</b>"}).text
        assert "blue/" in shown
        assert "<b>blue" not in shown
        body = client.get("/api/v1/s/set/search/text", params={"text": "red", "k": 2}).json()
        assert [hit["label"] for hit in body["hits"]] == ["red", "red"]
        refused = client.get("/api/v1/s/set/search/text", params={"text": "red", "features": "no/such"})
        assert refused.status_code == 404
        assert "grid/colours" in refused.json()["error"]["message"]
        assert client.get("/api/v1/s/set/search/text", params={"text": " "}).status_code == 400


def test_features_made_before_the_tower_was_named_are_searched_with_a_recipe(made, tmp_path):
    bare = {**made[1], "probes": []}
    tower = made[1]["backbones"]["colours"]
    bare["backbones"] = {"colours": {key: value for key, value in tower.items() if key != "text"}}
    store = FeatureStore.create(str(tmp_path / "store"))
    run_recipe(parse_recipe(bare), store, made[2])
    before = store.dataset("set").feature_info("grid", "colours").fingerprint_id
    assert before == opened(made).dataset("set").feature_info("grid", "colours").fingerprint_id
    assert text_targets(store.dataset("set")) == []
    with pytest.raises(NotFoundError, match="--recipe"):
        search_text(store, "set", "red", made[2])
    found = search_text(store, "set", "red", made[2], k=1, recipe=parse_recipe(made[1]))
    assert found.hits[0].label == "red"


def test_what_does_not_fit_is_refused_in_words(made, tmp_path):
    spec = made[1]["backbones"]["colours"]["text"]
    encoder = load_text_tower(TextTower(**spec), made[2])
    assert encoder.encode([]).shape == (0, 3)
    assert encoder.encode(["red " * 300]).shape == (1, 3)  # longer than the program: cut
    with pytest.raises(InvalidInputError):
        encoder.encode([""])
    other = {**spec, "tokenizer": tokenizer_file(tmp_path / "t.json", [f"w{i}" for i in range(500)] + ["[UNK]"])}
    with pytest.raises(WeightsError, match="tokenizer"):
        load_text_tower(TextTower(**other), made[2]).encode(["w499"])
    (tmp_path / "bad.json").write_text("{}")
    bad = {"path": str(tmp_path / "bad.json"), "sha256": "0" * 64}
    with pytest.raises(WeightsError, match="sha256"):
        load_text_tower(TextTower(**{**spec, "tokenizer": bad}), made[2])
    bad["sha256"] = hashlib.sha256(b"{}").hexdigest()
    with pytest.raises(WeightsError, match=r"tokenizer\.json"):
        load_text_tower(TextTower(**{**spec, "tokenizer": bad}), made[2])
    with pytest.raises(ShapeMismatchError, match="tokens"):
        load_text_tower(TextTower(**{**spec, "weights": made[1]["backbones"]["colours"]["weights"]}), made[2])
    with pytest.raises(ShapeMismatchError, match="num_tokens"):
        load_text_tower(TextTower(**{**spec, "num_tokens": 9}), made[2])
    words = WordsIndex(opened(made).dataset("set"), "grid", "colours")
    for vector in (np.zeros(3, np.float32), np.full(3, np.nan, np.float32)):
        with pytest.raises(InvalidInputError):
            words.search(vector, 1)
    with pytest.raises(ShapeMismatchError):
        words.search(np.ones(4, np.float32), 1)
    bare = {key: value for key, value in made[1]["backbones"]["colours"].items() if key != "text"}
    with pytest.raises(RecipeError, match="text tower"):
        parse_recipe({**made[1], "backbones": {"colours": bare}})
    with pytest.raises(RecipeError, match="template"):
        parse_recipe({**made[1], "probes": [{"kind": "zero_shot", "crops": "grid", "templates": ["no place"]}]})
