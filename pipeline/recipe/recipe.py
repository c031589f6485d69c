"""A recipe: one complete, named run, from one YAML file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from pipeline.errors import RecipeError
from pipeline.names import did_you_mean
from pipeline.recipe.backbones import BackboneSpec, Stream, feature_set_name
from pipeline.recipe.backbones.text import TextTower
from pipeline.recipe.base import LATER, Name, Spec
from pipeline.recipe.crops import CropPolicy
from pipeline.recipe.datasets import AnyDataset
from pipeline.recipe.mistakes import explain
from pipeline.recipe.pretraining import PretrainSpec
from pipeline.recipe.previews import PreviewSpec
from pipeline.recipe.probes import IndexSpec, ProbeSpec
from pipeline.recipe.readout_words import BUILT_IN
from pipeline.recipe.readouts import ReadoutSpec, plain_readout
from pipeline.recipe.recipe_text import RecipeText, odd_words, read_text
from pipeline.recipe.training import EmbedSpec, TrainSpec

MAX_RECIPE_BYTES = 1 << 20


class Target(Spec):
    """One feature set that a recipe asks for: a crop set seen by a backbone in one stream."""

    crops: str
    backbone: str
    stream: Stream = "rgb"

    @property
    def feature_set(self) -> str:
        """Its name in the store."""
        return feature_set_name(self.backbone, self.stream)

    @property
    def label(self) -> str:
        """``crops/feature set``, for messages."""
        return f"{self.crops}/{self.feature_set}"


class Recipe(Spec):
    """The complete, named configuration of a run: *what*, never *where*."""

    name: Name
    dataset: AnyDataset
    crops: dict[Name, CropPolicy] = Field(min_length=1)
    backbones: dict[Name, BackboneSpec] = Field(min_length=1)
    pretrain: Annotated[dict[Name, PretrainSpec], LATER] = Field(default_factory=dict)
    """Backbones of one's own, by the name under which they stand beside the models of the store."""
    accept: tuple[str, ...] = ()
    """Fingerprint fields that may differ from what the store holds, e.g. `decoder.version`."""
    keep: Annotated[int | None, LATER] = Field(None, ge=1)
    """How many versions of each model, embedding set, report and index of this recipe stay when a run ends well, the
    newest included; what a staying version is made of stays, too. None: all (`scale prune` removes them by hand)."""
    previews: Annotated[PreviewSpec | None, LATER] = None
    """Small pictures of the videos, kept in the store by `extract`, so that pages have some where the videos are not.
    `{}` takes the defaults; none are made where nothing is said, or of videos that were extracted before."""
    readouts: Annotated[dict[Name, ReadoutSpec], LATER] = Field(default_factory=dict)
    """Vectors that need no training, by name; probes, embeddings and indexes read them."""
    train: TrainSpec | None = None
    """The one model of the recipe; for several, or another name, see `models`."""
    models: Annotated[dict[Name, TrainSpec], LATER] = Field(default_factory=dict)
    """Models by name; instead of `train`."""
    embed: tuple[EmbedSpec, ...] = ()
    probes: tuple[ProbeSpec, ...] = ()
    indexes: tuple[IndexSpec, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _models_are_named(cls, content: Any) -> Any:
        models = content.get("models") if isinstance(content, dict) else None
        if not isinstance(models, dict):
            return content
        if models and content.get("train"):
            raise ValueError("expected either train (one model) or models (by name), found both")
        for name, spec in models.items():
            if isinstance(spec, dict) and spec.get("name", name) != name:
                raise ValueError(f"models.{name}: expected no name but its key, found {spec['name']!r}")
        named = {n: spec | {"name": n} if isinstance(spec, dict) else spec for n, spec in models.items()}
        return content | {"models": named}

    @model_validator(mode="after")
    def _references_exist(self) -> Recipe:
        labels = {t.label for t in self.targets()}
        feature_sets = {t.feature_set for t in self.targets()}
        for where, crops, feature_set in self._references():
            if crops not in self.crops:
                raise ValueError(
                    f"{where}: expected crops to be one of {sorted(self.crops)}, found {crops!r}"
                    f"{did_you_mean(crops, self.crops)}"
                )
            if feature_set is not None and feature_set not in feature_sets:
                raise ValueError(
                    f"{where}: expected backbone to be one of {sorted(feature_sets)}, found {feature_set!r}"
                    f"{did_you_mean(feature_set, feature_sets)}"
                )
        self._check_readouts()
        self._check_text_towers()
        for where, spec in self._named_sections():
            named = (*getattr(spec, "features", ()), *([spec.moving.by] if getattr(spec, "moving", None) else ()))
            named += getattr(getattr(spec, "objective", None), "negatives_from", ())
            named += tuple(f"{spec.crops}/{name}" for name in getattr(spec, "also_reads", ()))
            if unknown := [label for label in named if label not in labels]:
                raise ValueError(
                    f"{where}: expected features out of {sorted(labels)}, found {unknown[0]!r}"
                    f"{did_you_mean(unknown[0], labels)}"
                )
            for name in getattr(spec, "models", None) or ():
                if name not in self.trainings:
                    raise ValueError(
                        f"{where}: expected models out of {sorted(self.trainings)}, found {name!r}"
                        f"{did_you_mean(name, self.trainings)}"
                    )
        if any(spec.needs_model for spec in self.embed) and not self.trainings:
            raise ValueError("embed needs a train section: which model would write the embeddings?")
        if shared := sorted(self.pretrain.keys() & self.trainings.keys()):
            raise ValueError(f"pretrain.{shared[0]}: expected another name than that of a model, found the same")
        return self

    def _references(self) -> Iterator[tuple[str, str, str | None]]:
        for name, backbone in self.backbones.items():
            for crops in backbone.crops or ():
                yield f"backbones.{name}", crops, None
        for where, spec in self._named_sections():
            yield where, spec.crops, spec.feature_set

    def _named_sections(self) -> Iterator[tuple[str, Any]]:
        for spec in self.trainings.values():
            yield self.training_section(spec.name), spec
        for section in ("embed", "probes", "indexes"):
            for i, spec in enumerate(getattr(self, section)):
                yield f"{section}[{i}]", spec

    @property
    def trainings(self) -> dict[str, TrainSpec]:
        """Every model that the recipe trains, by name: `models`, or the one of `train`."""
        return self.models if self.train is None else {self.train.name: self.train}

    def training_section(self, model: str) -> str:
        """Where a model stands in the recipe: ``train`` or ``models.<name>``."""
        return "train" if self.train is not None else f"models.{model}"

    def _check_text_towers(self) -> None:
        with_text = {t.feature_set for t in self.targets() if self.text_tower(t.feature_set) is not None}
        for i, probe in enumerate(self.probes):
            if probe.kind == "zero_shot" and not ({probe.backbone} if probe.backbone else with_text) & with_text:
                raise ValueError(
                    f"probes[{i}]: expected a backbone with a text tower for zero_shot, found none; add `text` to it"
                )

    def text_tower(self, feature_set: str) -> TextTower | None:
        """Return the text tower that a feature set is comparable to: its backbone's, where it sees rgb."""
        backbone = self.backbones.get(feature_set)
        return None if backbone is None or "rgb" not in backbone.streams else backbone.text

    def _check_readouts(self) -> None:
        labels = sorted(t.label for t in self.targets())
        for name, spec in self.readouts.items():
            if name in BUILT_IN:
                raise ValueError(f"readouts.{name}: expected another name, {name} has a meaning of its own")
            for crops, backbone in spec.feature_sets:
                if f"{crops}/{backbone}" not in labels:
                    raise ValueError(f"readouts.{name}: expected features out of {labels}, found {crops}/{backbone}")
        for i, probe in enumerate(self.probes):
            for name in getattr(probe, "readouts", ()):
                self._check_readout(f"probes[{i}].readouts", name)
        for i, embed in enumerate(self.embed):
            if not embed.needs_model:
                self._check_readout(f"embed[{i}].readout", embed.readout)
                if embed.readout not in self.readouts and len(embed.inputs(None)) != 1:
                    raise ValueError(f"embed[{i}]: expected one feature set for the readout {embed.readout}; name it")
        for i, index in enumerate(self.indexes):
            self._check_readout(f"indexes[{i}].readout", index.readout)
            if (named := self.readouts.get(index.readout)) is not None and named.project != "none":
                raise ValueError(
                    f"indexes[{i}].readout: expected a readout without projection, found {index.readout} "
                    f"({named.project}); write it with `embed` and index that embedding"
                )

    def _check_readout(self, where: str, name: str) -> None:
        if name not in BUILT_IN and name not in self.readouts:
            known = [*BUILT_IN, *sorted(self.readouts)]
            raise ValueError(
                f"{where}: expected one of {known}, found {name!r}; define it under `readouts`"
                f"{did_you_mean(name, known)}"
            )

    def readout(self, name: str, crops: str, backbone: str) -> ReadoutSpec | None:
        """Return what a readout that needs no training is made of, read for one feature set.

        None for words that mean something else (mean, cls ...), and for a named one whose first feature set is another.
        """
        named = self.readouts.get(name)
        if named is None:
            return plain_readout(name, crops, backbone)
        return named if named.feature_sets[0] == (crops, backbone) else None

    def targets(self) -> tuple[Target, ...]:
        """Return every feature set that the recipe asks for, in its order."""
        return tuple(
            Target(crops=crops, backbone=name, stream=stream)
            for name, backbone in self.backbones.items()
            for crops in (backbone.crops or self.crops)
            for stream in backbone.streams
        )


def parse_recipe(content: Any, *, source: str = "recipe") -> Recipe:
    """Validate already parsed YAML or JSON.

    Raises
    ------
    RecipeError
        Listing every problem with its place, what was expected and what was found.
    """
    return _validate(RecipeText(content, None), source)


def load_recipe(path: str | Path) -> Recipe:
    """Read and validate a recipe file.

    Parameters
    ----------
    path : str or Path
        A YAML file of at most 1 MiB.

    Raises
    ------
    RecipeError
        If the file is absent, not YAML, or does not validate.
    """
    return _validate(read_recipe(path), str(path))


def read_recipe(path: str | Path) -> RecipeText:
    """Read a recipe file as its YAML says it, before it is validated.

    Raises
    ------
    RecipeError
        If the file is absent, or not YAML.
    """
    path = Path(path)
    try:
        if not path.is_file():
            beside = [str(one) for one in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
            raise RecipeError(
                f"expected a recipe file at {path}, found none; the shipped ones are in flows/recipes/, and "
                f"`scale init FOLDER` writes one{did_you_mean(str(path), beside)}"
            )
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise RecipeError(
                f"expected a recipe of at most {MAX_RECIPE_BYTES} bytes, found {path.stat().st_size} in {path}"
            )
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as err:
        raise RecipeError(f"{path}: expected YAML in UTF-8, found other bytes: {err}") from err
    except OSError as err:
        raise RecipeError(f"{str(path)[:200]}: expected a readable recipe file, found: {err.strerror}") from err
    return read_text(text, source=str(path))


def _validate(text: RecipeText, source: str) -> Recipe:
    if not isinstance(text.content, dict):
        raise RecipeError(
            f"{source}: expected a mapping with the keys {', '.join(Recipe.model_fields)}, "
            f"found {type(text.content).__name__}"
        )
    for word in odd_words(text.content):
        raise RecipeError(f"{source}: expected text without NUL and half characters, found {word[:60]!a}")
    try:
        return Recipe.model_validate(text.content)
    except ValidationError as err:
        raise RecipeError(explain(err, Recipe, text, source)) from err
