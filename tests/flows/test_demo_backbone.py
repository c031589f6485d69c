"""The backbone that ships with the demo is the one that its recipe made, and it tells motions apart."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch

from extract.arrangements import ARRANGEMENTS, class_name, draw_arrangement
from extract.backbones import load_backbone
from extract.backbones.stored import read_description
from extract.movers import CELL_PX, FPS, draw_single
from extract.synthetic import MOTIONS
from flows.cli.demo import DEMO_RECIPE, story
from flows.demo_backbone import FACTS, NAME, RECIPE, WEIGHTS
from pipeline.fingerprint import fingerprint
from pipeline.products.backbone import backbone_products
from pipeline.recipe import PretrainedBackbone, WeightsFile, load_recipe
from pipeline.settings import Settings

MAX_BYTES = 4 << 20


def test_its_file_matches_its_hash_its_recipe_and_the_demo() -> None:
    facts = json.loads(FACTS.read_text())
    data = WEIGHTS.read_bytes()
    assert len(data) <= MAX_BYTES
    assert hashlib.sha256(data).hexdigest() == facts["sha256"]
    recipe, demo = load_recipe(RECIPE), load_recipe(DEMO_RECIPE)
    (product,) = backbone_products(recipe)
    assert facts["fingerprint"] == fingerprint(product.content(None))  # type: ignore[arg-type]
    assert facts["seed"] == recipe.pretrain[NAME].seed
    (backbone,) = demo.backbones.values()
    assert isinstance(backbone, PretrainedBackbone)
    assert backbone.weights == WeightsFile(path=WEIGHTS.name, sha256=facts["sha256"])
    encoder, num_frames, _ = read_description(WEIGHTS)
    assert encoder == recipe.pretrain[NAME].encoder
    assert num_frames == recipe.pretrain[NAME].clips.num_frames == demo.crops["train16"].num_frames


def test_it_tells_motions_apart_that_it_was_never_shown_with_a_label() -> None:
    (spec,) = load_recipe(DEMO_RECIPE).backbones.values()
    backbone = load_backbone(spec, Settings())  # found without being told where
    vectors, motions = [], []
    for number, motion in enumerate(MOTIONS):
        for seed in range(6):
            frames = np.stack(list(draw_single(motion, seed=900 + 10 * number + seed, duration_s=1.2))).astype(
                np.float32
            )
            shown = (frames[1:17:2] - frames[2:18:2] + 255) / 2  # the temporal gradient, at every second frame
            clip = torch.nn.functional.interpolate(
                torch.from_numpy(shown).permute(0, 3, 1, 2), size=(48, 48), mode="bilinear", antialias=True
            )
            mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.mean, backbone.std))
            vectors.append(((clip / 255 - mean) / std).permute(1, 0, 2, 3))
            motions.append(number)
    features = backbone(torch.stack(vectors).contiguous())
    centred = torch.nn.functional.normalize(features - features.mean(0), dim=1)
    nearest = (centred @ centred.mT).fill_diagonal_(-2).argmax(1)
    assert np.mean(np.array(motions)[nearest.numpy()] == np.array(motions)) > 0.7  # chance 14 %


def test_all_classes_of_the_demo_show_all_motions_equally_often() -> None:
    assert {tuple(sorted(one)) for one in ARRANGEMENTS} == {(0, 1, 2, 3)}
    assert len({class_name(one) for one in ARRANGEMENTS}) == len(ARRANGEMENTS)
    frames = list(draw_arrangement(ARRANGEMENTS[0], seed=1, duration_s=1.0))
    assert len(frames) == FPS
    assert frames[0].shape == (CELL_PX, 2 * CELL_PX, 3)
    again = list(draw_arrangement(ARRANGEMENTS[0], seed=1, duration_s=1.0))
    assert all((a == b).all() for a, b in zip(frames, again, strict=True))


def test_the_story_is_told_by_the_numbers() -> None:
    rows = [
        {"probe": "knn", "readout": readout, "centring": centring, "top1": top1, "interval": [top1 - 0.1, top1 + 0.1]}
        for readout, top1 in (("mean", 0.2), ("moments", 0.3), ("cls", 0.7))
        for centring in ("train", "per_split")
    ]
    lines = story(rows, 6)
    assert "chance 16.7 %" in lines[0]
    assert lines[-1].strip() == "SCALE reads where and when: +50.0 points over the mean."
    assert len(lines) == 5
    assert story(rows[:2], 6) == []
