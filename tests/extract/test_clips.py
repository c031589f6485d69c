"""Clips for pretraining: their order, what is done to them, and the cache that they wait in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from extract.clips.augment import PLAIN, augment, draw_augmentation, foreground_mask
from extract.clips.cache import SHARD_VIDEOS, ClipCache
from extract.clips.decoding import VideoClips
from extract.clips.feed import _choose_views
from extract.clips.schedule import Schedule
from extract.crops.draws import Draws
from pipeline.compute.seeds import seeded
from pipeline.errors import InvalidInputError, StorageError
from pipeline.recipe import AugmentSpec, PretrainSpec


def test_a_step_after_the_last_one_is_refused() -> None:
    """It was looked for without end."""
    schedule = Schedule(22, 4, epochs=3, reuse=2, num_parts=2, seed=3)
    with pytest.raises(InvalidInputError, match="expected one of the 12 steps of 3 epochs, found step 12"):
        schedule.place(12)


@pytest.mark.parametrize(("epochs", "reuse", "parts"), [(4, 1, 1), (5, 2, 1), (5, 2, 3), (2, 7, 2)])
def test_every_epoch_sees_a_video_at_most_once_and_drawings_follow_one_another(
    epochs: int, reuse: int, parts: int
) -> None:
    schedule = Schedule(22, 4, epochs, reuse, parts, seed=3)
    seen: dict[tuple[int, int], list[int]] = {}
    drawings = []
    for step in range(schedule.steps_per_epoch * epochs):
        place = schedule.place(step)
        if not drawings or drawings[-1] != place.drawing:
            drawings.append(place.drawing)
        members = schedule.members(place.drawing)[place.positions]
        assert len(set(members.tolist())) == len(members) == schedule.videos_a_step
        seen.setdefault((place.drawing.generation, place.drawing.part), []).extend(members.tolist())
    assert [schedule.after(one) for one in drawings] == [*drawings[1:], None]
    for (generation, _), rows in seen.items():
        passes = min(reuse, epochs - generation * reuse)
        assert max(np.unique(rows, return_counts=True)[1]) <= passes
    whole = {row for rows in seen.values() for row in rows}
    assert len(whole) >= 16


def clips_of(number: int, *, previous: bool = False) -> VideoClips:
    current = np.full((2, 3, 4, 4, 3), number, np.uint8)
    return VideoClips(current, current + 1 if previous else None, np.full((2, 9), number, np.float32), np.ones(2, bool))


@pytest.mark.parametrize("harm", ["flip a byte", "cut the file", "remove the file"])
def test_a_damaged_cache_is_decoded_again(tmp_path: Path, harm: str) -> None:
    count = SHARD_VIDEOS + 3
    cache = ClipCache(tmp_path / "c", count, clips_of(0, previous=True))
    again: list[int] = []

    def decode(positions: Sequence[int]) -> list[VideoClips]:
        again.extend(positions)
        return [clips_of(k, previous=True) for k in positions]

    assert cache.missing == (0, 1)
    for shard in cache.missing:
        cache.write(shard, [clips_of(k, previous=True) for k in cache.positions(shard)])
    assert ClipCache(tmp_path / "c", count, clips_of(0, previous=True)).missing == ()
    file = max((f for f in (tmp_path / "c" / "current").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    if harm == "flip a byte":
        data[len(data) // 3] ^= 0xFF
        file.write_bytes(data)
    elif harm == "cut the file":
        file.write_bytes(data[: len(data) // 2])
    else:
        file.unlink()
    found = cache.read(np.arange(count), decode)
    assert (found["current"][:, 0, 0, 0, 0, 0] == np.arange(count)).all()
    assert (found["previous"][:, 0, 0, 0, 0, 0] == np.arange(count) + 1).all()
    assert again == list(range(SHARD_VIDEOS))


def test_a_disk_that_loses_what_it_is_given_is_named_and_nothing_it_holds_is_served(tmp_path: Path) -> None:
    cache = ClipCache(tmp_path, 2, clips_of(0))
    cache.write(0, [clips_of(0), clips_of(1)])
    file = tmp_path / "current" / "c" / "0" / "0" / "0" / "0" / "0"
    file.unlink()
    file.symlink_to("/dev/null")
    with pytest.raises(StorageError, match="SCALE_CACHE"):
        cache.read(np.array([0, 1]), lambda at: [clips_of(k) for k in at])


def test_a_step_reads_the_crops_it_sees_and_plain_zarr_reads_them_too(tmp_path: Path) -> None:
    clips = [clips_of(k) for k in range(SHARD_VIDEOS + 3)]
    for k, one in enumerate(clips):
        one.current[1] = 100 + k
    cache = ClipCache(tmp_path, len(clips), clips_of(0))
    for shard in cache.missing:
        cache.write(shard, [clips[k] for k in cache.positions(shard)])
    file = tmp_path / "current" / "c" / "1" / "0" / "0" / "0" / "0"
    data = bytearray(file.read_bytes())
    data[5] ^= 0xFF  # the first crop of video 16
    file.write_bytes(data)
    positions = np.array([SHARD_VIDEOS, 2, SHARD_VIDEOS + 2])
    found = cache.read(positions, lambda at: [], np.array([[1], [0], [1]]))
    assert found["current"].shape == (3, 1, 3, 4, 4, 3)
    assert found["current"][:, 0, 0, 0, 0, 0].tolist() == [116, 2, 118]
    assert found["geometry"][:, 0, 0].tolist() == positions.tolist()
    plain = zarr.open_array(tmp_path / "current", mode="r")
    assert plain[2 * np.arange(SHARD_VIDEOS) + 1, 0, 0, 0, 0].tolist() == [100 + k for k in range(SHARD_VIDEOS)]


def test_a_cache_of_other_shapes_is_begun_anew(tmp_path: Path) -> None:
    cache = ClipCache(tmp_path, 4, clips_of(0))
    cache.write(0, [clips_of(k) for k in range(4)])
    other = ClipCache(tmp_path, 5, clips_of(0))
    other.write(0, [clips_of(k) for k in range(5)])
    assert (other.read(np.array([4]), lambda at: [])["current"] == 4).all()


def random_clips(count: int = 6, size: int = 12) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size, 3), dtype=torch.uint8, generator=seeded(1))


def test_nothing_is_done_to_plain_clips() -> None:
    clips = random_clips()
    (out,) = augment([clips], draw_augmentation(PLAIN, Draws("x"), 3, 2), 12)
    assert torch.equal(out, clips.float())


def test_a_clip_is_augmented_alike_in_all_frames_and_in_the_frames_before() -> None:
    frame = random_clips(4)[:, :1]
    clips = frame.expand(-1, 3, -1, -1, -1).contiguous()
    spec = AugmentSpec.model_validate(
        {
            "area": [0.3, 0.8],
            "gain": [0.5, 1.5],
            "invert": 0.5,
            "mix_channels": 0.5,
            "colour": {"blur_probability": 0.5},
        }
    )
    drawn = draw_augmentation(spec, Draws("x"), 2, 2)
    now, before = augment([clips, clips], drawn, 8)
    assert now.shape == (4, 3, 8, 8, 3)
    assert torch.equal(now, before)
    assert torch.equal(now[:, 0], now[:, 2])
    assert not torch.equal(now[0], now[1])


def test_a_share_of_the_clips_gets_what_it_would_get_among_all() -> None:
    clips = random_clips(6)
    spec = AugmentSpec(gain=(0.5, 1.5), mix_channels=0.5)
    drawn = draw_augmentation(spec, Draws("x", 7), 3, 2)
    (whole,) = augment([clips], drawn, 8)
    (part,) = augment([clips[2:4]], drawn.share(2, 4), 8)
    assert torch.equal(part, whole[2:4])


def test_what_moves_is_put_before_another_videos_background() -> None:
    clips = torch.zeros((4, 4, 16, 16, 3), dtype=torch.uint8)
    clips += torch.tensor([10, 10, 200, 200], dtype=torch.uint8)[:, None, None, None, None]
    for t in range(4):
        clips[:, t, 4:8, 2 * t : 2 * t + 4] = 255
    spec = AugmentSpec.model_validate(
        {"area": [1, 1], "aspect": [1, 1], "flip": False, "foreground": {"probability": 1.0, "share": 0.3}}
    )
    drawn = draw_augmentation(spec, Draws("x"), 2, 2)
    assert drawn.donor.tolist() == [2, 3, 0, 1]
    (merged,) = augment([clips], drawn, 16, backgrounds=clips, share=0.3)
    mask = foreground_mask(clips, 0.3)
    assert mask[:, 5, 3].all()
    assert not mask[:, 14, 14].any()
    assert merged[:, 0, 14, 14, 0].tolist() == [200, 200, 10, 10]
    assert (merged[:, 0, 5, 1] == 255).all()


def test_pairs_that_the_interval_law_has_drawn_stay_together() -> None:
    clips = {"policy": "random", "num_crops": 8, "num_frames": 2, "interval_exponent": 2.0}
    spec = PretrainSpec.model_validate({"clips": clips, "views": 2})
    chosen = _choose_views(spec, Draws("x"), 50)
    assert (chosen[:, 0] % 2 == 0).all()
    assert (chosen[:, 1] == chosen[:, 0] + 1).all()
    assert len(set(chosen[:, 0].tolist())) == 4


def test_more_clips_than_fit_take_turns() -> None:
    spec = PretrainSpec.model_validate(
        {
            "clips": {"policy": "random", "num_crops": 2, "num_frames": 8, "size_px": 64},
            "cache_gib": 0.1,
            "batch_size": 8,
        }
    )
    in_bytes = 2 * 8 * 64 * 64 * 3
    parts = spec.num_parts(1000)
    assert 2 * 1000 / parts * in_bytes <= 0.1 * 2**30 < 2 * 1000 / (parts - 1) * in_bytes
    assert spec.num_parts(10) == 1
