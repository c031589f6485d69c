"""benchmarks/compose_videos.py: sources on one side only, one class an order, and real files from any list."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compose_videos import draw_list, known_clips, make
from extract.decoding.inspect import inspect_video
from extract.synthetic import encode_video
from pipeline.errors import InvalidInputError

ACTIONS = ["a", "b", "c"]
CLIPS = [(f"{action}/{g}_{i}.avi", action, f"{action}:{g}") for action in ACTIONS for g in range(5) for i in range(2)]


def test_classes_are_orders_and_sources_stay_on_one_side() -> None:
    rows = draw_list(CLIPS, ACTIONS, train=6, test=4, test_share=0.4, seed=0)
    assert {row["label"] for row in rows} == {"-".join(order) for order in itertools.permutations(ACTIONS)}
    assert len({row["video"] for row in rows}) == len(rows) == 6 * (6 + 4)
    group = {path: source for path, _, source in CLIPS}
    action = {path: name for path, name, _ in CLIPS}
    sides: dict[str, set[str]] = {"train": set(), "test": set()}
    for row in rows:
        clips = row["clips"].split(";")
        assert [action[clip] for clip in clips] == row["label"].split("-")
        sides[row["split"]] |= {group[clip] for clip in clips}
    assert not sides["train"] & sides["test"]
    with pytest.raises(InvalidInputError, match="two sources"):
        draw_list(CLIPS[:2], ["a"], train=1, test=1, test_share=0.5, seed=0)


def test_any_list_is_made_once(tmp_path: Path) -> None:
    for name in ("v_A_g01_c01", "v_A_g02_c01", "v_B_g01_c01"):
        shade = np.full((48, 64, 3), 40 if "A" in name else 200, np.uint8)
        encode_video(tmp_path / "clips" / name[2] / f"{name}.avi", iter([shade] * 6))
    assert [group for _, _, group in known_clips(tmp_path / "clips")] == [
        "clips:v_A_g01",
        "clips:v_A_g02",
        "clips:v_B_g01",
    ]
    listed = tmp_path / "list.csv"
    listed.write_text(
        "video,label,split,group,clips\nAB/1.mp4,A-B,train,x,clips/A/v_A_g01_c01.avi;clips/B/v_B_g01_c01.avi\n"
    )
    assert make(listed, tmp_path, tmp_path / "out", seconds_each=2.0) == 1
    assert make(listed, tmp_path, tmp_path / "out", seconds_each=2.0) == 0
    assert [path.name for path in (tmp_path / "out/AB").iterdir()] == ["1.mp4"]
    found = inspect_video(tmp_path / "out/AB/1.mp4")
    assert found.duration_s == pytest.approx(4.0, abs=0.2)
    with (tmp_path / "out/videos.csv").open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["A-B"]
    listed.write_text("video,label,split,group\nx.mp4,A,train,g\n")
    with pytest.raises(InvalidInputError, match="clips"):
        make(listed, tmp_path, tmp_path / "out", seconds_each=1.0)
