from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.decoding import scan
from extract.decoding.decode import MIN_FRAMES_SAVED, PyavReader
from extract.decoding.opening import open_reader
from pipeline.errors import InvalidInputError, ShapeMismatchError, VideoError
from tests.support.videos import (
    frame_number,
    numbered_frames,
    rotate_header,
    truncate,
    write_image_folder,
    write_video,
    write_video_with_cover,
)

NUM_FRAMES = 90

KINDS: dict[str, dict] = {
    "b_frames.mp4": {"b_frames": 3, "gop": 15},
    "plain.mkv": {"b_frames": 0, "gop": 10},
    "transport.ts": {"gop": 15},
    "old.avi": {"codec": "mpeg4"},
    "web.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "g": "20"}},
    "loop.gif": {"codec": "gif", "pix_fmt": "rgb8", "fps": 10},
    "raw.h264": {"format": "h264"},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    frames = numbered_frames(NUM_FRAMES)
    made = {name: write_video(folder / name, frames, **options) for name, options in KINDS.items()}
    made["images"] = write_image_folder(folder / "images", frames)
    return made


def numbers(frames: np.ndarray) -> list[int]:
    return [frame_number(frame) for frame in frames]


@pytest.mark.parametrize("kind", [*KINDS, "images"])
@settings(max_examples=12, deadline=None)
@given(wanted=st.sets(st.integers(0, NUM_FRAMES - 1), max_size=12))
def test_every_kind_of_video_gives_exactly_the_frames_asked_for(
    videos: dict[str, Path], kind: str, wanted: set[int]
) -> None:
    indices = np.array(sorted(wanted), dtype=np.int64)
    with open_reader(videos[kind]) as reader:
        assert reader.num_frames == NUM_FRAMES
        decoded = reader.read(indices)
    assert decoded.error is None
    assert decoded.indices.tolist() == indices.tolist()
    assert decoded.frames.shape == (len(indices), 48, 80, 3)
    assert numbers(decoded.frames) == indices.tolist()


@pytest.mark.parametrize("kind", ["b_frames.mp4", "plain.mkv", "web.webm"])
def test_a_seek_changes_no_pixel(videos: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = np.array([2, 3, 44, 47, 61, 89])
    seeks: list[int] = []
    seek = scan.FrameStream.seek
    monkeypatch.setattr(scan.FrameStream, "seek", lambda self, pts: (seeks.append(pts), seek(self, pts))[1])
    with open_reader(videos[kind]) as reader:
        jumped = reader.read(wanted)
    assert seeks  # gaps of more than MIN_FRAMES_SAVED are jumped over
    with open_reader(videos[kind]) as reader:
        everything = reader.read(np.arange(NUM_FRAMES))
    np.testing.assert_array_equal(jumped.frames, everything.frames[wanted])


def test_small_gaps_are_decoded_through(videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan.FrameStream, "seek", lambda self, pts: pytest.fail("no seek is worth it here"))
    with open_reader(videos["b_frames.mp4"]) as reader:
        wanted = np.arange(0, NUM_FRAMES, MIN_FRAMES_SAVED - 2)
        assert numbers(reader.read(wanted).frames) == wanted.tolist()


def test_a_reader_can_be_asked_again_and_backwards(videos: dict[str, Path]) -> None:
    with open_reader(videos["b_frames.mp4"]) as reader:
        assert numbers(reader.read(np.array([50, 51])).frames) == [50, 51]
        assert numbers(reader.read(np.array([52])).frames) == [52]
        assert numbers(reader.read(np.array([0, 80])).frames) == [0, 80]
        assert reader.read(np.zeros(0, np.int64)).frames.shape == (0, 48, 80, 3)


def test_frames_land_in_the_array_given(videos: dict[str, Path]) -> None:
    out = np.zeros((2, 48, 80, 3), np.uint8)
    with open_reader(videos["plain.mkv"]) as reader:
        decoded = reader.read(np.array([7, 30]), out)
        assert np.shares_memory(decoded.frames, out)
        assert numbers(out) == [7, 30]
        with pytest.raises(ShapeMismatchError):
            reader.read(np.array([7]), out)


@pytest.mark.parametrize("indices", [[3, 2], [1, 1], [-1], [NUM_FRAMES], [[1]], [0.5]])
def test_frame_numbers_must_ascend_within_the_video(videos: dict[str, Path], indices: list) -> None:
    with open_reader(videos["plain.mkv"]) as reader, pytest.raises(InvalidInputError, match="frame numbers"):
        reader.read(np.array(indices))


def test_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    times = np.cumsum([0.5, 0.04, 0.02, 0.3, 0.05] * 6)
    path = write_video(tmp_path / "vfr.mp4", numbered_frames(30), times_s=times.tolist())
    with open_reader(path) as reader:
        np.testing.assert_allclose(reader.frame_times_s, times - times[0], atol=1e-4)
        assert reader.info.duration_s > times[-1] - times[0]


def test_times_that_begin_below_or_above_zero_count_from_the_first_frame(tmp_path: Path) -> None:
    late = write_video(tmp_path / "late.mkv", numbered_frames(10), times_s=[7 + k / 30 for k in range(10)])
    with open_reader(late) as reader:
        assert reader.frame_times_s[0] == 0
        assert reader.info.start_s == pytest.approx(7, abs=0.1)
        assert numbers(reader.read(np.arange(10)).frames) == list(range(10))
    early = write_video(tmp_path / "early.ts", numbered_frames(10), times_s=[k / 30 - 0.2 for k in range(10)])
    with open_reader(early) as reader:
        assert reader.num_frames == 10
        np.testing.assert_allclose(np.diff(reader.frame_times_s), 1 / 30, atol=1e-4)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_display_rotation_is_applied(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    path = write_video(tmp_path / "turned.mp4", numbered_frames(3))
    with open_reader(path) as reader:
        upright = reader.read(np.arange(3)).frames
    rotate_header(path, degrees, mirrored=mirrored)
    with open_reader(path) as reader:
        turned = reader.read(np.arange(3)).frames
        assert reader.info.rotation_deg == {0: 0, 90: 90, 180: 180, 270: -90}[degrees]
        assert (reader.height, reader.width) == turned.shape[1:3]
    expected = upright[:, :, ::-1] if mirrored else upright
    np.testing.assert_array_equal(turned, np.rot90(expected, degrees // 90, axes=(1, 2)))


@pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(4, 3), (48, 107)), (Fraction(1, 2), (96, 80)), (None, (48, 80))]
)
def test_pixels_are_made_square_by_stretching(tmp_path: Path, aspect: Fraction | None, size: tuple) -> None:
    path = write_video(tmp_path / "wide.mp4", numbered_frames(4), pixel_aspect=aspect)
    with open_reader(path) as reader:
        assert (reader.height, reader.width) == size
        assert numbers(reader.read(np.arange(4)).frames) == [0, 1, 2, 3]


def test_frames_of_another_size_come_in_the_size_of_the_first(tmp_path: Path) -> None:
    first = write_video(tmp_path / "a.h264", numbered_frames(6), format="h264")
    second = write_video(tmp_path / "b.h264", numbered_frames(9, height=96, width=128)[6:], format="h264")
    both = tmp_path / "both.h264"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    with open_reader(both) as reader:
        decoded = reader.read(np.arange(reader.num_frames))
    assert decoded.frames.shape == (9, 48, 80, 3)
    assert numbers(decoded.frames) == list(range(9))


@pytest.mark.parametrize("size", [(49, 81), (17, 33), (16, 200)])
@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv444p10le", "gray"])
def test_odd_sizes_depths_and_grey(tmp_path: Path, size: tuple[int, int], pix_fmt: str) -> None:
    frames = numbered_frames(5, height=size[0], width=size[1])
    path = write_video(tmp_path / "odd.mkv", frames, pix_fmt=pix_fmt, options={"qp": "0", "crf": "-1"})
    with open_reader(path) as reader:
        decoded = reader.read(np.arange(5)).frames.astype(int)
    assert decoded.shape == frames.shape
    if pix_fmt == "gray":
        np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])
        assert numbers(decoded) == [0, 1, 2, 3, 4]
    else:
        # the encoder now and then spoils eight pixels of a 10-bit frame
        assert (np.abs(decoded - frames).max(axis=-1) > 3).sum() <= 8 * len(frames)


def test_limited_and_full_range_show_the_same_colours(tmp_path: Path) -> None:
    frames = np.broadcast_to(np.array([200, 90, 30], np.uint8), (4, 48, 80, 3))
    for pix_fmt in ("yuv420p", "yuvj420p"):
        path = write_video(tmp_path / f"{pix_fmt}.mp4", frames, pix_fmt=pix_fmt, options={"crf": "5"})
        with open_reader(path) as reader:
            colour = reader.read(np.arange(4)).frames.reshape(-1, 3).mean(axis=0)
        assert np.abs(colour - [200, 90, 30]).max() < 4


def test_a_video_cut_in_half_gives_what_is_left_and_says_so(tmp_path: Path) -> None:
    whole = write_video(
        tmp_path / "cut.mp4", numbered_frames(60, height=96, width=128), container_options={"movflags": "faststart"}
    )
    with open_reader(whole) as reader:
        expected = reader.read(np.arange(60)).frames
    with open_reader(truncate(whole, 0.6)) as reader:
        left = reader.num_frames
        assert 5 < left < 60
        decoded = reader.read(np.arange(left))
        assert reader.info.status == "partial"
    assert decoded.error is not None
    assert "decoding stops after" in decoded.error
    np.testing.assert_array_equal(decoded.frames, expected[:left])


def test_a_cover_picture_is_not_the_video(tmp_path: Path) -> None:
    with open_reader(write_video_with_cover(tmp_path / "song.mp4", numbered_frames(8))) as reader:
        assert numbers(reader.read(np.arange(8)).frames) == list(range(8))


def test_a_broken_image_costs_an_image_sequence_one_frame(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "frames", numbered_frames(5), suffix=".jpg")
    (folder / "frame4.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    (folder / "notes.txt").write_text("not a frame")
    with open_reader(folder, image_fps=10) as reader:
        assert reader.frame_times_s.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
        decoded = reader.read(np.arange(5))
    assert decoded.indices.tolist() == [0, 1, 2, 4]
    assert decoded.error is not None
    assert "frame4.jpg" in decoded.error


def test_a_frame_that_the_decoder_passes_over_is_left_out(videos: dict[str, Path]) -> None:
    with open_reader(videos["b_frames.mp4"]) as reader:
        assert isinstance(reader, PyavReader)
        stamps = reader.index.pts
        assert stamps is not None
        reader._index_of = {int(pts): k for k, pts in enumerate(stamps) if k != 5}
        decoded = reader.read(np.array([4, 5, 6]))
    assert decoded.indices.tolist() == [4, 6]
    assert numbers(decoded.frames) == [4, 6]


def test_a_gradual_refresh_is_no_place_to_start(tmp_path: Path) -> None:
    options = {"x264-params": "intra-refresh=1:keyint=10", "crf": "30"}
    path = write_video(tmp_path / "refresh.mp4", numbered_frames(60), options=options, b_frames=0)
    with open_reader(path) as reader:
        expected = reader.read(np.arange(60)).frames
    with open_reader(path) as reader:
        np.testing.assert_array_equal(reader.read(np.array([45])).frames, expected[[45]])


@pytest.mark.parametrize("harm", ["late", "raises", "ends"])
def test_a_container_that_leads_astray_is_read_from_the_beginning(
    videos: dict[str, Path], harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seek = scan.FrameStream.seek

    def astray(self: scan.FrameStream, pts: int) -> None:
        if harm == "raises":
            raise av.error.InvalidDataError(1, "no index")
        seek(self, pts + 90_000 if harm == "late" else pts)
        if harm == "ends":
            self._frames = iter(())

    monkeypatch.setattr(scan.FrameStream, "seek", astray)
    with open_reader(videos["b_frames.mp4"]) as reader:
        decoded = reader.read(np.array([40, 60, 80]))
    assert decoded.error is None
    assert numbers(decoded.frames) == [40, 60, 80]


@pytest.mark.parametrize(("decoder", "device"), [("decord", "cpu"), ("pyav", "cuda")])
def test_unknown_decoders_are_refused(videos: dict[str, Path], decoder: str, device: str) -> None:
    with pytest.raises(InvalidInputError, match="expected"):
        open_reader(videos["plain.mkv"], decoder, device)


def test_a_missing_video_says_so(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such file") as caught:
        open_reader(tmp_path / "none.mp4")
    assert caught.value.status == "missing"
