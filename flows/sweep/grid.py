"""From a recipe and fields with several values to one recipe a point.

What a point makes is named by what it is made of. So points share a model where they would train the same one, and a
grid that grows, or is run again, finds what it has done.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import InvalidInputError
from pipeline.fingerprint import fingerprint
from pipeline.names import MAX_NAME_LENGTH
from pipeline.products.model import WITHOUT_EFFECT
from pipeline.recipe import EmbedSpec, Recipe, TrainSpec, parse_recipe
from pipeline.recipe.recipe_text import read_text

MAX_POINTS = 1000
SUFFIX_LENGTH = 8
REPEATED = ("seed", "split")
"""Fields whose values are repetitions of one point: the table averages over them."""
SHARED = ("name", "dataset", "crops", "backbones", "accept", "indexes")
"""Sections that a grid cannot change: all its points read the same features."""
EVERYWHERE = {
    "seed": ("train", "models.*", "probes.*"),
    "split": ("train", "models.*", "embed.*", "probes.*"),
}
"""A word of its own sets this field in all of these sections."""


@dataclass(frozen=True)
class Axis:
    """One field of a recipe, and its values."""

    path: str
    values: tuple[Any, ...]

    @property
    def is_repeat(self) -> bool:
        """Whether its values are repetitions rather than choices."""
        return self.path.rpartition(".")[2] in REPEATED


@dataclass(frozen=True)
class Point:
    """One point of a grid.

    Attributes
    ----------
    choice, repeat : mapping
        Field -> value: of what is compared, and of what is averaged over.
    recipe : Recipe
        Its models, embeddings and report bear names of their own.
    embeddings : mapping
        Name of an embedding set -> what the recipe of the grid calls it.
    """

    choice: Mapping[str, Any]
    repeat: Mapping[str, Any]
    recipe: Recipe
    embeddings: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """``train.epochs = 10, seed = 1``."""
        return ", ".join(f"{k} = {v}" for k, v in (*self.choice.items(), *self.repeat.items())) or "as it is"


def parse_axis(text: str) -> Axis:
    """Return the axis of ``train.epochs=10,20``; the values are a YAML list without its brackets.

    Raises
    ------
    InvalidInputError
        If it is anything else.
    RecipeError
        If the values are no YAML.
    """
    path, equals, values = text.partition("=")
    if not path.strip() or not equals or not values.strip():
        raise InvalidInputError(f"expected FIELD=VALUE,VALUE such as train.epochs=10,20, found {text!r}")
    found = tuple(read_text(f"[{values}]", source=f"--set {path}").content)
    if path.strip().rpartition(".")[2] == "split":  # the name of a split is a word, whatever it looks like
        found = tuple(str(value) for value in found)
    return Axis(path.strip(), found)


def points_of(content: Any, axes: Sequence[Axis], *, source: str = "recipe") -> list[Point]:
    """Return the points of a grid, in the order of its axes, the last one fastest.

    Parameters
    ----------
    content : mapping
        A recipe as its YAML says it.
    axes : sequence of Axis
    source : str
        Named in messages.

    Raises
    ------
    InvalidInputError
        If a field cannot be set, is set twice, or the grid has more than 1,000 points.
    RecipeError
        If a point is no recipe.
    """
    paths = [axis.path for axis in axes]
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        raise InvalidInputError(f"expected every field once, found {twice[0]} again; give all its values together")
    for path in paths:
        if path.partition(".")[0] in SHARED:
            raise InvalidInputError(
                f"expected fields of train, models, readouts, embed or probes, found {path}: all points share their "
                "features; define two crop sets or backbones, and let train.crops or train.backbone choose"
            )
    num_points = 1
    for axis in axes:
        num_points *= len(axis.values)
    if num_points > MAX_POINTS:
        raise InvalidInputError(f"expected a grid of at most {MAX_POINTS:,} points, found {num_points:,}")
    base = parse_recipe(content, source=source)
    found = []
    for values in itertools.product(*(axis.values for axis in axes)):
        chosen = dict(zip(paths, values, strict=True))
        changed = _copy(content)
        for path, value in chosen.items():
            _set(changed, path, _copy(value))
        words = ", ".join(f"{path} = {value}" for path, value in chosen.items())
        recipe = parse_recipe(changed, source=f"{source} with {words}" if words else source)
        named, embeddings = _with_own_names(recipe, base)
        sides = [{a.path: chosen[a.path] for a in axes if a.is_repeat == is_repeat} for is_repeat in (False, True)]
        found.append(Point(sides[0], sides[1], named, embeddings))
    return found


def _copy(value: Any) -> Any:
    """Copy lists and mappings; what YAML aliases share is shared no more."""
    if isinstance(value, dict):
        return {key: _copy(one) for key, one in value.items()}
    return [_copy(one) for one in value] if isinstance(value, list) else value


def _set(content: dict[str, Any], path: str, value: Any) -> None:
    """Set a field wherever the path leads; `*` stands for every key or place."""
    paths = [f"{section}.{path}" for section in EVERYWHERE[path]] if path in EVERYWHERE else [path]
    places = [place for one in paths for place in _places(content, one.split("."), one, must_exist=path == one)]
    if not places:
        raise InvalidInputError(f"expected a section of the recipe with the field {path!r}, found none")
    for parent, key in places:
        parent[key] = value


def _places(at: Any, keys: list[str], path: str, *, must_exist: bool) -> Iterator[tuple[Any, Any]]:
    key, rest = keys[0], keys[1:]
    if key == "*" and isinstance(at, dict | list) and at:
        for one in list(at) if isinstance(at, dict) else range(len(at)):
            yield from _step(at, one, rest, path, must_exist=must_exist)
    elif isinstance(at, list) and key.isdigit() and int(key) < len(at):
        yield from _step(at, int(key), rest, path, must_exist=must_exist)
    elif isinstance(at, dict) and key != "*":
        if not must_exist and rest and key not in at:
            return
        yield from _step(at, key, rest, path, must_exist=must_exist)
    elif must_exist:
        found = f"{len(at)} entries" if isinstance(at, list) else "no section"
        raise InvalidInputError(f"expected {key!r} of {path!r} to be a part of the recipe, found {found} there")


def _step(at: Any, key: Any, rest: list[str], path: str, *, must_exist: bool) -> Iterator[tuple[Any, Any]]:
    if not rest:
        yield at, key
        return
    if isinstance(at, dict) and at.get(key) is None:
        at[key] = {}
    yield from _places(at[key], rest, path, must_exist=must_exist)


def _with_own_names(recipe: Recipe, base: Recipe) -> tuple[Recipe, dict[str, str]]:
    """Name what a point makes by its content; indexes are left to single runs."""
    names = {name: _own_name(name, _what_trains(spec)) for name, spec in recipe.trainings.items()}
    models = {names[name]: spec.model_copy(update={"name": names[name]}) for name, spec in recipe.models.items()}
    train = recipe.train and recipe.train.model_copy(update={"name": names[recipe.train.name]})
    embed, called = [], {}
    for i, spec in enumerate(recipe.embed):
        is_as_in_base = i < len(base.embed) and spec == base.embed[i]
        named = _named_embed(spec, recipe, names, is_as_in_base=is_as_in_base)
        embed.append(named)
        if not spec.needs_model:
            called[named.name or named.readout] = spec.name or spec.readout
            continue
        for model in spec.models if spec.models is not None else recipe.trainings:
            is_shared = bool(recipe.models) and (spec.models is None or len(spec.models) > 1)
            old, new = (
                own if part is None else (f"{part}-{own}" if is_shared else part)
                for own, part in ((model, spec.name), (names[model], named.name))
            )
            called[new] = old
    probes = tuple(
        probe if probe.models is None else probe.model_copy(update={"models": tuple(names[n] for n in probe.models)})
        for probe in recipe.probes
    )
    changed: dict[str, Any] = {"train": train, "models": models, "embed": tuple(embed), "probes": probes, "indexes": ()}
    made = recipe.model_copy(update=changed)
    measured = made.model_dump(mode="json", include={"train", "models", "embed", "probes", "readouts"})
    return made.model_copy(update={"name": _own_name(recipe.name, measured)}), called


def _named_embed(spec: EmbedSpec, recipe: Recipe, names: Mapping[str, str], *, is_as_in_base: bool) -> EmbedSpec:
    models = None if spec.models is None else tuple(names[name] for name in spec.models)
    name = spec.name
    if name is not None or not is_as_in_base or not spec.needs_model:
        read = recipe.readouts.get(spec.readout)
        trained = [names[m] for m in spec.models or recipe.trainings] if spec.needs_model else []
        content = [spec.model_dump(mode="json"), trained, read and read.model_dump(mode="json")]
        name = _own_name(name or spec.readout, content)
    return spec.model_copy(update={"models": models, "name": name})


def _what_trains(spec: TrainSpec) -> Any:
    return spec.model_dump(mode="json", exclude=set(WITHOUT_EFFECT))


def _own_name(name: str, content: Any) -> str:
    suffix = fingerprint(content)[:SUFFIX_LENGTH]
    return f"{name[: MAX_NAME_LENGTH - SUFFIX_LENGTH - 1]}-{suffix}"
