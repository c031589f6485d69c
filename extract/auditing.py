"""`scale audit`: are the stored features still what the pixels say? Random crops are decoded and embedded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from extract.catalog.find_videos import resolve_video
from extract.crops.draw import draw_crops, facts_of
from extract.decoding.decode_pool import DecodePool
from extract.decoding.frame_picking import STRIDE, RowPart, pick_row_frames, predecessors
from extract.decoding.versions import decoder_identity, decoder_options
from extract.pixels.colour import draw_colours
from extract.pixels.preprocess import cut_crop, normalise
from extract.pixels.streams import apply_stream
from extract.places.files import Files
from extract.targets import ResolvedTarget, resolve_targets
from pipeline.errors import InvalidInputError, NoDataError, NotFoundError, VideoError
from pipeline.fingerprint import differing_fields
from pipeline.recipe import Recipe, parse_recipe
from pipeline.settings import Settings
from pipeline.storage.schema import PENDING

if TYPE_CHECKING:
    from pipeline import FeatureStore

DEFAULT_TOLERANCE = 1e-2
"""Relative: |again - stored| / |stored|. Rounding to float16 alone gives up to 5e-4, other kernels about 1e-3."""


@dataclass(frozen=True)
class Drift:
    """One crop looked at again."""

    row: int
    video_id: str
    crop: int
    relative: float
    """|again - stored| / |stored|; NaN where it could not be had again."""
    cosine: float
    same_geometry: bool
    error: str = ""


@dataclass(frozen=True)
class AuditReport:
    """The outcome of an audit."""

    dataset: str
    crops: str
    feature_set: str
    tolerance: float
    drifts: tuple[Drift, ...]
    differing: dict[str, tuple[Any, Any]]
    """Fingerprint fields in which this machine differs from the one that wrote the features."""

    @property
    def is_ok(self) -> bool:
        """Whether every crop came back, with its geometry, within the tolerance."""
        return all(not d.error and d.same_geometry and d.relative <= self.tolerance for d in self.drifts)

    @property
    def worst(self) -> float:
        """Largest relative drift of those that could be measured."""
        return max((d.relative for d in self.drifts if not d.error), default=float("nan"))

    def summary(self) -> str:
        """One line."""
        bad = sum(bool(d.error) or not d.same_geometry or d.relative > self.tolerance for d in self.drifts)
        return (
            f"{self.crops}/{self.feature_set}: {len(self.drifts)} crops looked at again, largest relative drift "
            f"{self.worst:.1e} (tolerance {self.tolerance:g}), {bad} beyond it or gone"
        )

    def table(self) -> list[dict[str, object]]:
        """Return one row a crop, worst first."""
        ranked = sorted(self.drifts, key=lambda d: -np.inf if d.error else -d.relative)
        return [
            {
                "row": d.row,
                "video": d.video_id,
                "crop": d.crop,
                "relative": f"{d.relative:.2e}",
                "cosine": f"{d.cosine:.6f}",
                "geometry": "same" if d.same_geometry else "differs",
                "why": d.error or ("ok" if d.relative <= self.tolerance else "beyond the tolerance"),
            }
            for d in ranked
        ]


def audit(
    store: FeatureStore,
    dataset: str,
    crops: str,
    feature_set: str,
    settings: Settings,
    *,
    num_crops: int = 16,
    seed: int = 0,
    tolerance: float = DEFAULT_TOLERANCE,
) -> AuditReport:
    """Decode and embed random stored crops again and compare.

    Parameters
    ----------
    store : FeatureStore
    dataset, crops, feature_set : str
    settings : Settings
        Says where the videos and weights lie now.
    num_crops : int
        Crops to look at.
    seed : int
        Which ones.
    tolerance : float
        Largest relative drift that is fine.

    Returns
    -------
    AuditReport

    Raises
    ------
    NotFoundError
        If there is no such feature set, or it was made without a recipe (imported).
    NoDataError
        If it holds no valid crop.
    """
    if num_crops < 1 or not tolerance >= 0:
        raise InvalidInputError(
            f"expected 1 or more crops and a tolerance of 0 or more, found {num_crops}, {tolerance}"
        )
    ds = store.dataset(dataset)
    info = ds.feature_info(crops, feature_set)
    if info.recipe is None:
        raise NotFoundError(f"{crops}/{feature_set} was made without a recipe, so nothing can be embedded again")
    target = _target(parse_recipe(info.recipe), crops, feature_set, settings, ds)
    picked = _pick(ds, crops, feature_set, num_crops, seed)
    drifts = _look_again(ds, target, picked, settings)
    differing = differing_fields(info.fingerprint, dict(target.fingerprint))
    return AuditReport(dataset, crops, feature_set, tolerance, tuple(drifts), differing)


def _target(recipe: Recipe, crops: str, feature_set: str, settings: Settings, ds: Any) -> ResolvedTarget:
    label = f"{crops}/{feature_set}"
    found = resolve_targets(recipe, settings, decoder=decoder_identity(settings), only=[label], dataset=ds)
    if not found:
        raise NotFoundError(f"expected the pretrained backbone of {label} in the store, found none; it was removed")
    return found[0]


def _pick(ds: Any, crops: str, feature_set: str, num_crops: int, seed: int) -> list[tuple[int, int]]:
    """Draw (row, crop) pairs among the valid ones, looking at few rows."""
    done = (part.filter(pc.not_equal(part["status"], PENDING))["row"] for part in ds.status_parts(crops, feature_set))
    rows = np.concatenate([np.empty(0, np.int64), *(part.to_numpy() for part in done)])
    rng = np.random.default_rng(seed)
    found: list[tuple[int, int]] = []
    for row in rng.permutation(rows).tolist():
        valid = np.flatnonzero(ds.select(rows=[row]).features(crops, feature_set).valid[0])
        if len(valid):
            found.append((row, int(rng.choice(valid))))
        if len(found) == num_crops:
            break
    if not found:
        raise NoDataError(f"expected valid crops in {crops}/{feature_set}, found none; extract first")
    return found


def _look_again(ds: Any, target: ResolvedTarget, picked: Sequence[tuple[int, int]], settings: Settings) -> list[Drift]:
    from extract.backbones import load_backbone
    from pipeline.compute.devices import pick_device

    device = pick_device(settings.device)
    backbone = load_backbone(target.spec, settings, device)
    drifts = []
    with DecodePool(1, files=Files.of(settings), **decoder_options(settings)) as pool:
        for row, number in sorted(picked):
            selection = ds.select(rows=[row])
            video = selection.videos.to_pylist()[0]
            block = selection.features(target.crops, target.feature_set)
            geometry = np.array(block.geometry[0, number])
            drawn = draw_crops(target.policy, video["video_id"], facts_of(video)).geometry[number]
            stored = np.asarray(block.values[0, number], np.float32)
            try:
                again = embed_crop(pool, target, backbone, video, number, geometry, settings)
            except VideoError as err:
                drifts.append(Drift(row, video["video_id"], number, float("nan"), float("nan"), False, str(err)))
                continue
            norm = max(float(np.linalg.norm(stored)), 1e-12)
            cosine = float(stored @ again / max(norm * float(np.linalg.norm(again)), 1e-12))
            relative = float(np.linalg.norm(again - stored)) / norm
            same = bool(np.array_equal(geometry, drawn))
            drifts.append(Drift(row, video["video_id"], number, relative, cosine, same))
    return drifts


def embed_crop(
    source: Any,
    target: ResolvedTarget,
    backbone: Any,
    video: dict[str, Any],
    number: int,
    geometry: np.ndarray,
    settings: Settings,
) -> np.ndarray:
    """Decode and embed one crop the plain way: open the video, read its frames, one forward pass.

    The slow and obvious twin of the whole stage.

    Returns
    -------
    ndarray of shape (D,), float32

    Raises
    ------
    VideoError
        If the frames cannot be had.
    """
    import torch

    place = resolve_video(video["video_id"], video["uri"], settings, num_bytes=video["bytes"], sha256=video["sha256"])
    with source.open_reader(place) as reader:
        if not reader.num_frames:
            raise VideoError("no frame could be decoded")
        if target.sound is not None:
            heard = reader.read_sound(geometry[None, [0, 1]].astype(np.float64), target.sound)
            if not heard.has_sound[0]:
                raise VideoError(heard.error or "the crop has no sound")
            spectrogram = heard.spectrograms[:, None, :, :: 1 if geometry[STRIDE] >= 0 else -1]
            return backbone(torch.from_numpy(spectrogram.copy()).to(backbone.device))[0].cpu().numpy()
        frames = pick_row_frames(geometry[None], target.policy, reader.frame_times_s, RowPart.of(video))[0]
        current = frames[list(target.positions)]
        before = predecessors(current, RowPart.of(video))
        wanted = np.unique(np.concatenate([current, before]) if target.with_previous else current)
        decoded = reader.read(wanted)
        if len(decoded.indices) < len(wanted):
            raise VideoError(decoded.error or "some frames could not be decoded")
        pixels = torch.from_numpy(np.array(decoded.frames)).to(backbone.device)
    colour = draw_colours(target.policy, video["video_id"], target.policy.num_crops)[number]

    def cut(picks: np.ndarray) -> torch.Tensor:
        return cut_crop(pixels, np.searchsorted(wanted, picks), geometry, target.size_px, colour)[None]

    seen = apply_stream(target.target.stream, cut(current), cut(before) if target.with_previous else None)
    return backbone(normalise(seen, target.info.mean, target.info.std))[0].cpu().numpy()
