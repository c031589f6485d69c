"""Recipes of strangers, and of tired people: bounded in time and memory, every mistake one line with its place."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import RecipeError
from pipeline.recipe import load_recipe

RECIPE = """\
name: small
dataset:
  name: clips
  videos: "**/*.mp4"
  labels: {from: folder}
  splits: {from: random, seed: 2}
  shard_rows: 3
crops:
  grid: {policy: grid, temporal: 2, spatial: 1, short_side_px: 64}
  train: {policy: random, short_side_px: [64, 80]}
backbones:
  tiny: {kind: pytorchvideo, model: x3d_xs, weights: {random: 0}}
train: {crops: train, backbone: tiny}
embed: [{crops: grid, readout: cls}]
probes:
  - {kind: knn, crops: grid, k: [1, 5]}
  - {kind: linear, crops: grid}
indexes: [{name: default, crops: grid}]
"""


def refusal(folder: Path, text: str) -> str:
    """Return what the loader says of a text, which it must refuse at once and in few words."""
    path = folder / "r.yaml"
    path.write_text(text)
    started = time.process_time()
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert time.process_time() - started < 5
    assert len(message) < 4000
    return message


def outcome(path: Path) -> str:
    """Load a recipe that may be anything; only a short RecipeError may come of it."""
    try:
        load_recipe(path)
    except RecipeError as err:
        return "refused" if len(str(err)) < 20_000 else "refused at length"
    return "taken"


def aliases(levels: int, width: int = 9) -> str:
    lines = [f"- &a0 [{','.join('x' * width)}]"]
    lines += [f"- &a{n} [{','.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "accept:\n" + "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (aliases(9), "line 7: expected at most 100,000 values"),
        (aliases(60), "expected at most 100,000 values"),
        ("a: " + "[" * 300 + "]" * 300, "at most 40 levels"),
        ("[" * 20_000, "nest"),
        ("{a: " * 20_000, "levels"),
        ("a: &x [*x]", "line 1: the alias *x stands inside what it names"),
        (f"seed: {'9' * 5000}", "a number of at most 64 characters"),
        (f"seed: 0x{'9' * 5000}", "a number of at most 64 characters"),
        (f"seed: 1{':59' * 9000}", "a number of at most 64 characters"),
        ("seed: !!timestamp 2020-99-99", "tag 'timestamp'"),
        ("seed: !!python/object/apply:os.system [x]", "tag"),
        ("? [a]\n: b", "expected a word as a key"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands here again, first in line 1"),
        ("a: [1, 2\nb: 3", "line 2, column 2: expected YAML"),
        (f"x: [{','.join('1' * 200_000)}]", "expected at most 100,000 values"),
        ('name: "a\\0b"', "without NUL"),
        ('name: "\\ud800"', "expected"),
    ],
    ids=lambda value: None,
)
def test_texts_that_stand_for_more_than_a_recipe(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: 2", "seed: 2020-02-31", "line 6: dataset.splits.seed: expected a whole number, found '2020-02-31'"),
        ("shard_rows: 3", "shard_rows: [1]", "line 7: dataset.shard_rows: expected a whole number, found [1]"),
        ("shard_rows: 3", "shard_rows: 0", "line 7: dataset.shard_rows: expected a number of at least 1, found 0"),
        ("kind: linear", "kind: linaer", "line 17: probes.1: expected `kind` out of knn, retrieval, linear, mlp, "
         "attentive, zero_shot, background, order, overlap, speed, tau, phase, semi, "
         "found 'linaer'; did you mean linear?"),
        ("from: folder", "from: foldr", "expected `from` out of none, folder, column, regex, csv, found 'foldr'; did "
         "you mean folder?"),
        ("videos:", "vidoes:", "line 4: dataset.vidoes: unknown key; did you mean videos?"),
        ("temporal:", "temporl:", "line 9: crops.grid.temporl: unknown key; did you mean temporal?"),
        ("k: [", "neighbours: [", "known here: crops, backbone"),
        ("readout: cls", "readout: clss", "'clss'; define it under `readouts`"),
        ("{random: 0}", "{path: a.pth}", "backbones.tiny.weights.sha256: expected a value, found none; add this key"),
        ("{random: 0}", "{random: -1}", "backbones.tiny.weights.random: expected a number of at least 0, found -1"),
        ("short_side_px: [64, 80]", "short_side_px: big", "expected a whole number or expected a list, found 'big'"),
        ("k: [1, 5]", "k: [0]", "line 16: probes.0.k.0: expected a number of at least 1, found 0"),
        ("name: default", "name: ../../x", "line 18: indexes.0.name: expected a name of 1-100 letters"),
        ("backbone: tiny", "backbone: tny", "train: expected backbone to be one of ['tiny'], found 'tny'"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_problem_in_our_words_with_its_line(tmp_path, old, new, said) -> None:
    assert RECIPE.count(old) == 1
    message = refusal(tmp_path, RECIPE.replace(old, new))
    assert "1 problem(s)" in message
    assert said in message


def test_a_date_is_a_word_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("name: small", "name: 2020-99-99"))
    assert load_recipe(path).name == "2020-99-99"


def test_anchors_and_merged_keys_serve(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    text = RECIPE.replace("grid: {", "grid: &grid {") + ""
    path.write_text(text.replace("  train: {pol", "  wide: {<<: *grid, temporal: 7}\n  train: {pol"))
    assert load_recipe(path).crops["wide"].num_crops == 7


@pytest.mark.parametrize("name", ["x" * 300 + ".yaml", "x/" * 3000])
def test_a_path_longer_than_the_system_allows_is_a_recipe_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="expected"):
        load_recipe(tmp_path / name)


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates().map(str)
    | st.sampled_from(["../x", "none", "random", "2020-02-31", "9" * 5000, "\x1b]52;c;eA==\x07", "a" * 5000])
)  # fmt: skip
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES, seed=st.integers(0, 10**6))
def test_any_value_anywhere_is_taken_or_refused_as_a_recipe_error(tmp_path: Path, value, seed: int) -> None:
    content = yaml.safe_load(RECIPE)
    node = content
    while isinstance(node, dict | list) and node:
        key = sorted(node, key=str)[seed % len(node)] if isinstance(node, dict) else seed % len(node)
        seed //= 3
        if seed % 3 == 0 or not isinstance(node[key], dict | list):
            node[key] = value
            break
        node = node[key]
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert outcome(path) in ("taken", "refused")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_the_text_is_taken_or_refused_as_a_recipe_error(tmp_path: Path, data) -> None:
    text = RECIPE.encode()
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text)))
        put = data.draw(st.binary(max_size=6) | st.sampled_from([b"*a", b"&a ", b"[", b"{", b"!!x ", b"? ", b"<<: "]))
        text = text[:place] + put + text[place + data.draw(st.integers(0, 8)) :]
    path = tmp_path / "r.yaml"
    path.write_bytes(text)
    assert outcome(path) in ("taken", "refused")
