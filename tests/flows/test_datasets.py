"""Published data sets, from the layout in which they are downloaded to a table of probes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.runner import run_recipe
from pipeline import FeatureStore
from pipeline.recipe import parse_recipe
from pipeline.settings import Settings
from tests.support.extraction import tiny_program
from tests.support.videos import numbered_frames, write_video

pytestmark = pytest.mark.slow


def measure(data: Path, dataset: dict[str, Any], **probe: Any) -> list[dict[str, Any]]:
    """Run catalogue, extraction and a nearest-neighbour probe over a data set, and return the table's rows."""
    (data / "program").mkdir()
    path, digest = tiny_program(data / "program")
    content = {
        "name": "r",
        "dataset": {"name": "set", **dataset},
        "crops": {"g": {"policy": "grid", "temporal": 2, "spatial": 1, "num_frames": 4, "stride": 2,
                        "size_px": 16, "short_side_px": 20}},
        "backbones": {
            "tiny": {
                "kind": "exported", "num_frames": 4, "size_px": 16,
                "weights": {"path": str(path), "sha256": digest},
            }
        },
        "probes": [{"kind": "knn", "crops": "g", "k": [1], **probe}],
    }  # fmt: skip
    store = FeatureStore.create(str(data / "store"))
    report = run_recipe(parse_recipe(content), store, Settings(data=data, device="cpu"))
    assert report.probes
    return report.probes


@pytest.mark.shared_data
def test_ucf101_from_real_clips(tmp_path: Path, shared_data: Path) -> None:
    clips = sorted((shared_data / "ucf101_2class").rglob("*.avi"))
    assert len(clips) == 24
    classes = sorted({clip.parent.name for clip in clips})
    for clip in clips:
        (tmp_path / "UCF-101" / clip.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "UCF-101" / clip.parent.name / clip.name).symlink_to(clip)
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("".join(f"{k + 1} {name}\n" for k, name in enumerate(classes)))
    for split, held in (("01", "g01"), ("02", "g02"), ("03", "g03")):
        names = [f"{clip.parent.name}/{clip.name}" for clip in clips]
        train = [f"{name} {classes.index(name.split('/')[0]) + 1}" for name in names if held not in name]
        (lists / f"trainlist{split}.txt").write_text("\n".join(train))
        (lists / f"testlist{split}.txt").write_text("\n".join(name for name in names if held in name))
    found = measure(tmp_path, {"kind": "ucf101"}, split="2")
    assert found[0]["used"] == sum("_g02_" in clip.name for clip in clips)
    assert found[0]["excluded"] == 0


def test_something_something_is_measured_on_val_and_says_so(tmp_path: Path) -> None:
    templates = ["Holding [something]", "Pushing [something]"]
    entries = [{"id": str(k), "template": templates[k % 2]} for k in range(12)]
    for k in range(14):
        write_video(tmp_path / "v" / f"{k}.webm", numbered_frames(10 + k), codec="libvpx", b_frames=0)
    (tmp_path / "labels").mkdir()
    sides = {"train": entries[:8], "validation": entries[8:], "test": [{"id": "12"}, {"id": "13"}]}
    for name, content in {"labels": {"Holding something": "0", "Pushing something": "1"}, **sides}.items():
        (tmp_path / "labels" / f"{name}.json").write_text(json.dumps(content))
    found = measure(tmp_path, {"kind": "ssv2", "videos": "v", "annotations": "labels"}, side="val")
    assert {row["used"] for row in found} == {4}
    store = FeatureStore.open(str(tmp_path / "store"))
    (report,) = store.dataset("set").artifacts("reports")
    pages = "".join(p.read_text() for p in (tmp_path / "store").rglob("*.html"))
    assert "1/val" in pages, report


def test_epic_kitchens_parts_of_long_videos(tmp_path: Path) -> None:
    for name in ("P01_01", "P02_01"):
        write_video(tmp_path / "E" / name[:3] / "videos" / f"{name}.MP4", numbered_frames(90))
    head = "participant_id,video_id,start_timestamp,stop_timestamp,verb,verb_class\n"
    lines = [f"P0{p},P0{p}_01,00:00:0{k * 0.5},00:00:0{k * 0.5 + 0.5},take,{k % 2}\n" for p in (1, 2) for k in range(5)]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "EPIC_100_train.csv").write_text(head + "".join(lines[:5]))
    (tmp_path / "a" / "EPIC_100_validation.csv").write_text(head + "".join(lines[5:]))
    found = measure(tmp_path, {"kind": "epic_kitchens", "videos": "E", "annotations": "a"}, side="val")
    assert found[0]["used"] == 5
