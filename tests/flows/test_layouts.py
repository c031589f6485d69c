"""Every form of data set that docs/datasets.md names, as a miniature with invented names, to a table of probes.

UCF101, Something-Something v2 and EPIC-KITCHENS stand in test_datasets.py.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flows.test_datasets import measure
from tests.support.videos import numbered_frames, write_image_folder, write_video

pytestmark = pytest.mark.slow
CLASSES = ("hop", "wave")
NAMES = [f"{'abcdefgh'[k] * 11}" for k in range(8)]
"""As long as those of a video site; the first four are trained on, classes alternate."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [write_video(folder / f"{k}.mp4", numbered_frames(12, height=32, width=48, seed=k)) for k in range(8)]


class Miniature:
    """A data folder with the eight clips under the names of a layout."""

    def __init__(self, data: Path, clips: list[Path]) -> None:
        self.data = data
        self._clips = clips

    def put(self, name: Callable[[int], str]) -> None:
        for k, clip in enumerate(self._clips):
            place = self.data / name(k)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(clip, place)

    def write(self, name: str, content: str | list | dict) -> None:
        (self.data / name).parent.mkdir(parents=True, exist_ok=True)
        (self.data / name).write_text(content if isinstance(content, str) else json.dumps(content))


def is_train(k: int) -> bool:
    return k < 4


def folders(mini: Miniature) -> dict[str, Any]:
    mini.put(lambda k: f"{'train' if is_train(k) else 'test'}/{CLASSES[k % 2]}/{k}.mp4")
    return {"videos": "**/*.mp4", "labels": {"from": "folder"}, "splits": {"from": "folder"}}


def table(mini: Miniature) -> dict[str, Any]:
    mini.put(lambda k: f"{k}.mp4")
    lines = [f"{k}.mp4;{CLASSES[k % 2]};{1 if is_train(k) else 2}" for k in range(8)]
    (mini.data / "list.csv").write_bytes("\n".join(["path;label;split", *lines]).encode("utf-16"))
    values = {"1": "train", "2": "test"}
    return {"videos": "list.csv", "labels": {"from": "column", "column": "label"},
            "splits": {"from": "columns", "values": values}}  # fmt: skip


def lists(mini: Miniature) -> dict[str, Any]:
    mini.put(lambda k: f"v/{k}.mp4")
    for side, chosen in (("train", range(4)), ("test", range(4, 8))):
        mini.write(f"{side}.txt", "".join(f"{k}.mp4 {k % 2}\n" for k in chosen))
    mini.write("classes.txt", "hop\nwave\n")
    return {
        "kind": "list",
        "videos": "v",
        "lists": {"train": "train.txt", "test": "test.txt"},
        "classes": "classes.txt",
    }


def rawframes(mini: Miniature) -> dict[str, Any]:
    for k in range(8):
        for stem in ("img_", "flow_x_"):
            frames = numbered_frames(8, height=32, width=48, seed=k)
            write_image_folder(mini.data / "raw" / f"v{k}", frames, suffix=".jpg", stem=stem)
    for side, chosen in (("train", range(4)), ("test", range(4, 8))):
        mini.write(f"{side}.txt", "".join(f"v{k} 8 {k % 2}\n" for k in chosen))
    return {"kind": "rawframes", "videos": "raw", "lists": {"train": "train.txt", "test": "test.txt"}, "fps": 25}


def shards(mini: Miniature) -> dict[str, Any]:
    for shard, chosen in (("a", range(4)), ("b", range(4, 8))):
        with tarfile.open(mini.data / f"{shard}.tar", "w") as tar:
            for k in chosen:
                split = json.dumps({"split": "train" if is_train(k) else "test"})
                beside = {"mp4": mini._clips[k].read_bytes(), "cls": str(k % 2).encode(), "json": split.encode()}
                for suffix, content in beside.items():
                    info = tarfile.TarInfo(f"{k:04d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return {"videos": "{a,b}.tar", "labels": {"from": "column", "column": "cls"},
            "splits": {"from": "columns"}}  # fmt: skip


def hmdb51(mini: Miniature) -> dict[str, Any]:
    mini.put(lambda k: f"v/{CLASSES[k % 2]}/film{k}_{CLASSES[k % 2]}_u_nm_np1_fr_med_0.mp4")
    for c, name in enumerate(CLASSES):
        lines = [f"film{k}_{name}_u_nm_np1_fr_med_0.mp4 {1 if is_train(k) else 2}" for k in range(c, 8, 2)]
        mini.write(f"a/{name}_test_split1.txt", "\n".join(lines))
    return {"kind": "hmdb51", "videos": "v", "annotations": "a"}


def jhmdb(mini: Miniature) -> dict[str, Any]:
    return hmdb51(mini) | {"kind": "jhmdb"}


def kinetics(mini: Miniature) -> dict[str, Any]:
    mini.put(lambda k: f"k400/{CLASSES[k % 2]}/{NAMES[k]}_000001_000011.mp4")
    head = "label,youtube_id,time_start,time_end,split\n"
    for side, chosen in (("train", range(4)), ("validate", range(4, 8))):
        mini.write(f"{side}.csv", head + "".join(f"{CLASSES[k % 2]},{NAMES[k]},1,11,{side}\n" for k in chosen))
    return {"kind": "kinetics", "videos": "k400", "annotations": ["train.csv", "validate.csv"], "side": "val"}


def diving48(mini: Miniature) -> dict[str, Any]:
    mini.put(lambda k: f"rgb/d_{k}.mp4")
    mini.write("Diving48_vocab.json", [["Back", "15som"], ["Inward", "25som"]])
    for side, chosen in (("train", range(4)), ("test", range(4, 8))):
        mini.write(f"Diving48_V2_{side}.json", [{"vid_name": f"d_{k}", "label": k % 2} for k in chosen])
    files = ["Diving48_vocab.json", "Diving48_V2_train.json", "Diving48_V2_test.json"]
    return {"kind": "diving48", "videos": "rgb", "annotations": files}


def charades(mini: Miniature) -> dict[str, Any]:
    mini.put(lambda k: f"c/{NAMES[k][:5].upper()}.mp4")
    mini.write("a/Charades_v1_classes.txt", "c000 Holding some clothes\nc001 Closing a door\n")
    for side, chosen in (("train", range(4)), ("test", range(4, 8))):
        lines = [f"{NAMES[k][:5].upper()},P{k},Hall,6,s,c00{k % 2} 0.00 0.40,1" for k in chosen]
        head = "id,subject,scene,quality,script,actions,length"
        mini.write(f"a/Charades_v1_{side}.csv", "\n".join([head, *lines]))
    return {"kind": "charades", "videos": "c", "annotations": "a", "rows": "actions"}


def finegym(mini: Miniature) -> dict[str, Any]:
    names = [f"{NAMES[k]}_E_000010_000020_A_0001_0003" for k in range(8)]
    mini.put(lambda k: f"g/{names[k]}.mp4")
    for side, chosen in (("train", range(4)), ("val", range(4, 8))):
        mini.write(f"a/gym99_{side}_element.txt", "".join(f"{names[k]} {k % 2}\n" for k in chosen))
    mini.write(
        "a/gym99_categories.txt", "".join(f"Clabel: {c}; set: 1; Gym530: {c}; {n}\n" for c, n in enumerate(CLASSES))
    )
    return {"kind": "finegym", "videos": "g", "annotations": "a", "side": "val"}


FORMS = (folders, table, lists, rawframes, shards, hmdb51, jhmdb, kinetics, diving48, charades, finegym)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_from_the_layout_to_a_table_of_probes(tmp_path: Path, clips: list[Path], form: Callable) -> None:
    dataset = form(Miniature(tmp_path, clips))
    side = {"side": dataset.pop("side")} if "side" in dataset else {}
    (found, *_) = measure(tmp_path, dataset, **side)
    assert (found["used"], found["excluded"]) == (4, 0)
