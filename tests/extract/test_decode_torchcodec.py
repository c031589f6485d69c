"""Both decoders must show the same frames: same numbers, same times, same pixels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from extract.decoding import decode_torchcodec
from extract.decoding.decode import PYAV_VERSION
from extract.decoding.decode_pool import DecodePool
from extract.decoding.decode_torchcodec import TorchcodecReader, import_torchcodec
from extract.decoding.opening import open_reader
from pipeline.errors import MissingDependencyError
from tests.support.videos import frame_number, numbered_frames, rotate_header, truncate, write_image_folder, write_video

pytestmark = pytest.mark.service
MPEG4_ROUNDING = 2
"""MPEG-4 part 2 leaves the inverse transform's rounding open; FFmpeg 5 and 8 differ by this much in a few pixels."""


@pytest.fixture(autouse=True)
def _needs_torchcodec() -> None:
    try:
        import_torchcodec()
    except MissingDependencyError as error:
        if "service" in os.environ.get("SCALE_REQUIRE", "").split(","):
            pytest.fail(str(error))
        pytest.skip("service: torchcodec is not installed, or FFmpeg's shared libraries are missing; run `make system`")


def compare(path: Path, *, num_frames: int, tolerance: int = 0) -> None:
    with open_reader(path, "pyav") as ours, open_reader(path, "torchcodec") as theirs:
        assert theirs.decoder_name == "torchcodec"
        np.testing.assert_array_equal(ours.frame_times_s, theirs.frame_times_s)
        assert ours.num_frames == num_frames
        wanted = np.unique(np.linspace(0, num_frames - 1, 40).astype(int))
        left, right = ours.read(wanted), theirs.read(wanted)
        assert theirs.decoder_name == "torchcodec"
        assert left.indices.tolist() == right.indices.tolist()
        assert np.abs(left.frames.astype(np.int16) - right.frames).max() <= tolerance


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("b_frames.mp4", {"b_frames": 3}),
        ("vfr.mp4", {"times_s": np.cumsum([0.02, 0.1, 0.03] * 20).tolist()}),
        ("full.mp4", {"pix_fmt": "yuvj420p"}),
        ("colour.mkv", {"pix_fmt": "yuv444p"}),
        ("web.webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
        ("late.mkv", {"times_s": [5 + k / 25 for k in range(60)]}),
    ],
)
def test_generated_clips(tmp_path: Path, name: str, options: dict) -> None:
    compare(write_video(tmp_path / name, numbered_frames(60), **options), num_frames=60)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_clips(tmp_path: Path, degrees: int) -> None:
    path = rotate_header(write_video(tmp_path / "turned.mp4", numbered_frames(12)), degrees)
    compare(path, num_frames=12)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "num_frames", "tolerance"),
    [
        ("real_misc/kinetics400/R6llTwEh07w.mp4", 303, 0),
        ("real_misc/activitynet/v_GGSY1Qvo990.mp4", 355, 0),
        ("real_misc/decord/flipping_a_pancake.mkv", 310, 0),
        ("real_misc/sports/baseball.mp4", 167, 0),
        ("real_misc/ucf101/SoccerJuggling/v_SoccerJuggling_g23_c01.avi", 240, MPEG4_ROUNDING),
        ("torture/rotation/sideways_movie.mov", 25, 0),
        ("torture/timestamps/mov-3elist.mp4", 48, 0),
        ("torture/timestamps/h264_4bf_pyramid_nobsrestriction.mp4", 25, 0),
        ("torture/vfr_and_resize/nasa_13013_vfr.mp4", 50, 0),
        ("torture/codecs/av1_video.mkv", 125, 0),
        ("torture/codecs/nasa_13013.mp4", 325, 0),  # two video streams: both decoders take the first
        ("torture/bitdepth_colour/testsrc2_444_10bit_hevc.mp4", 25, 0),
    ],
)
def test_real_clips(shared_data: Path, name: str, num_frames: int, tolerance: int) -> None:
    compare(shared_data / name, num_frames=num_frames, tolerance=tolerance)


def test_what_torchcodec_numbers_otherwise_is_read_by_pyav(tmp_path: Path) -> None:
    frames = numbered_frames(30)
    others = [
        write_video(tmp_path / "transport.ts", frames),
        write_image_folder(tmp_path / "images", frames),
        truncate(write_video(tmp_path / "cut.mp4", frames, container_options={"movflags": "faststart"}), 0.8),
        rotate_header(write_video(tmp_path / "mirror.mp4", frames), 0, mirrored=True),
    ]
    for path in others:
        with open_reader(path, "torchcodec") as reader, open_reader(path, "pyav") as expected:
            assert (reader.decoder_name, reader.decoder_version) == ("pyav", PYAV_VERSION), path.name
            wanted = np.arange(reader.num_frames)
            np.testing.assert_array_equal(reader.read(wanted).frames, expected.read(wanted).frames)


def test_pyav_takes_over_where_torchcodec_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(20))
    with open_reader(path, "torchcodec") as reader:
        assert isinstance(reader, TorchcodecReader)

        class Broken:
            def get_frames_at(self, indices: list[int]) -> None:
                raise RuntimeError("no more frames")

        monkeypatch.setattr(reader, "_decoder", Broken())
        decoded = reader.read(np.array([3, 9]))
        assert [frame_number(frame) for frame in decoded.frames] == [3, 9]
        assert reader.decoder_name == "pyav"


@pytest.mark.slow
def test_torchcodec_works_in_a_pool(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(20))
    with DecodePool(1, decoder="torchcodec") as pool, pool.open_reader(path) as reader:
        assert reader.decoder_name == "torchcodec"
        assert [frame_number(frame) for frame in reader.read(np.array([3, 9])).frames] == [3, 9]


def test_its_absence_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchcodec", None)
    with pytest.raises(MissingDependencyError, match="make system"):
        decode_torchcodec.import_torchcodec()
