"""From a recipe's targets to what each one needs: frames, size, stream and the fingerprint of its feature set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from extract.backbones import BackboneInfo, check_clip_shape, describe_backbone, spread_frames
from extract.backbones.stored import bind
from extract.pixels.preprocess import describe_preprocessing
from extract.pixels.streams import check_stream, needs_previous
from pipeline.errors import InvalidInputError, ShapeMismatchError
from pipeline.products.backbone import backbone_ref, has_backbone
from pipeline.recipe import BackboneSpec, CropPolicy, Recipe, Target
from pipeline.recipe.backbones import ImportedBackbone
from pipeline.settings import Settings

if TYPE_CHECKING:
    from extract.sound.spectrogram import SoundSpec
    from pipeline import Dataset

_USUAL_PRECISION = "float16"
"""Left out of fingerprints, so that those of stores made before there was a choice stay as they are."""


@dataclass(frozen=True)
class ViewSpec:
    """How crops are seen: targets with the same one share batches and pixels."""

    num_frames: int
    size_px: int
    with_previous: bool


@dataclass(frozen=True)
class ResolvedTarget:
    """One feature set to fill: a crop set seen by a backbone in a stream."""

    target: Target
    policy: CropPolicy
    spec: BackboneSpec
    info: BackboneInfo
    positions: tuple[int, ...]
    """Which of a crop's frames the backbone sees."""
    size_px: int
    fingerprint: Mapping[str, Any]

    @property
    def crops(self) -> str:
        """The crop set."""
        return self.target.crops

    @property
    def feature_set(self) -> str:
        """The feature set."""
        return self.target.feature_set

    @property
    def label(self) -> str:
        """``crops/feature set``."""
        return self.target.label

    @property
    def sound(self) -> SoundSpec | None:
        """What its network hears of a crop; None where it sees."""
        return self.info.sound

    @property
    def with_previous(self) -> bool:
        """Whether its stream compares frames with the ones before."""
        return needs_previous(self.target.stream)


def resolve_targets(
    recipe: Recipe,
    settings: Settings,
    *,
    decoder: Mapping[str, str],
    only: Iterable[str] | None = None,
    dataset: Dataset | None = None,
) -> tuple[ResolvedTarget, ...]:
    """Resolve the targets of a recipe without building a backbone; those of imported features are none.

    Parameters
    ----------
    recipe : Recipe
    settings : Settings
        Says where weights lie.
    decoder : mapping
        Name, version and device of the decoder, for the fingerprints.
    only : iterable of str, optional
        Labels (``crops/feature set``) or crop sets or feature sets to keep; None: all.
    dataset : Dataset, optional
        Where pretrained backbones are looked for by name. Targets of those that it lacks are left out.

    Raises
    ------
    InvalidInputError
        If `only` names something that the recipe does not ask for.
    ShapeMismatchError
        If a backbone cannot take a crop set's crops; says what to change in the recipe.
    NotFoundError, WeightsError
        If a weights file is not there or not the right one.
    """
    infos: dict[str, BackboneInfo] = {}
    specs: dict[str, BackboneSpec] = {}
    resolved = []
    for target in select_targets(recipe, only):
        given = recipe.backbones[target.backbone]
        if isinstance(given, ImportedBackbone) or is_waiting(recipe, target, dataset):
            continue
        spec = specs.setdefault(target.backbone, bind(given, dataset))
        if target.backbone not in infos:
            infos[target.backbone] = describe_backbone(spec, settings)
        check_stream(target.stream)
        resolved.append(_resolve(target, recipe.crops[target.crops], spec, infos[target.backbone], decoder))
    return tuple(resolved)


def is_waiting(recipe: Recipe, target: Target, dataset: Dataset | None) -> bool:
    """Whether a target's network is one that this recipe pretrains and that does not exist yet."""
    ref = backbone_ref(recipe, target.backbone)
    return ref is not None and ref.name in recipe.pretrain and (dataset is None or not has_backbone(dataset, ref.name))


def select_targets(recipe: Recipe, only: Iterable[str] | None = None) -> list[Target]:
    """Return the targets of a recipe that are wanted; None: all."""
    targets = recipe.targets()
    if only is None:
        return list(targets)
    kept = []
    for name in only:
        found = [t for t in targets if name in (t.label, t.crops, t.feature_set)]
        if not found:
            known = ", ".join(t.label for t in targets)
            raise InvalidInputError(f"expected a target out of {known}, found {name!r}")
        kept.extend(found)
    return list(dict.fromkeys(kept))


def _resolve(
    target: Target, policy: CropPolicy, spec: BackboneSpec, info: BackboneInfo, decoder: Mapping[str, str]
) -> ResolvedTarget:
    if info.sound is not None:
        return _resolve_sound(target, policy, spec, info, decoder)
    wanted = info.num_frames or spec.num_frames
    if wanted is not None and wanted > policy.num_frames:
        raise ShapeMismatchError(
            f"{target.backbone} takes {wanted} frames a crop, crop set {target.crops} has {policy.num_frames}; "
            f"set num_frames of the crop set to {wanted} or more"
        )
    positions = tuple(spread_frames(policy.num_frames, wanted))
    size_px = spec.size_px or info.size_px or policy.size_px
    check_clip_shape(info, (1, 3, len(positions), size_px, size_px))
    backbone = info.description()
    if spec.precision != _USUAL_PRECISION:
        backbone["precision"] = spec.precision
    fingerprint = {
        "backbone": backbone,
        "preprocessing": describe_preprocessing(size_px, len(positions), info.mean, info.std, target.stream),
        "crops": policy.model_dump(mode="json"),
        "decoder": dict(decoder),
        "dtype": spec.dtype,
    }
    return ResolvedTarget(target, policy, spec, info, positions, size_px, fingerprint)


def _resolve_sound(
    target: Target, policy: CropPolicy, spec: BackboneSpec, info: BackboneInfo, decoder: Mapping[str, str]
) -> ResolvedTarget:
    assert info.sound is not None
    backbone = info.description()
    if spec.precision != _USUAL_PRECISION:
        backbone["precision"] = spec.precision
    fingerprint = {
        "backbone": backbone,
        "preprocessing": {"stream": target.stream, "sound": info.sound.description()},
        "crops": policy.model_dump(mode="json"),
        "decoder": dict(decoder),
        "dtype": spec.dtype,
    }
    return ResolvedTarget(target, policy, spec, info, (), 0, fingerprint)
