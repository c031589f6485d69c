"""Pictures that are true: frames the decoder made up are known, counted, and out of features unless asked for."""

from __future__ import annotations

import errno
from pathlib import Path

import av
import av.error
import numpy as np
import pytest

from extract.decoding import scan
from extract.decoding.container import describe_error
from extract.decoding.damage import Damage, _spread
from extract.decoding.decode_pool import DecodePool
from extract.decoding.frame_picking import RowPart
from extract.decoding.inspect import inspect_video
from extract.decoding.opening import open_reader
from extract.run.video_job import NOT_DECODED, CropRequest, VideoFrames, VideoJob, read_video
from pipeline.errors import VideoError
from pipeline.fingerprint import fingerprint
from pipeline.recipe.crops import GridPolicy
from tests.support.videos import frame_number, numbered_frames, write_video

H264 = {"codec": "libx264", "gop": 10, "container_options": {"movflags": "faststart"}}


def payloads(path: Path) -> list[tuple[int, int]]:
    """Place and size of every packet of a file."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def damage(path: Path, *, seed: int, num_bytes: int = 25, packets: range | None = None) -> Path:
    """Flip bytes inside packets; the container stays whole."""
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    places = payloads(path)
    for place, size in [places[k] for k in packets] if packets else places[3:]:
        for at in rng.integers(place + min(40, size // 2), place + size, max(num_bytes // 10, 1)):
            content[at] ^= int(rng.integers(1, 256))
    path.write_bytes(content)
    return path


def plain_flags(path: Path) -> list[bool]:
    """What the decoder says of each frame in a plain loop."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [frame.is_corrupt for frame in container.decode(video=0)]


@pytest.fixture(scope="module", params=["mpeg4 in avi", "h264 in mp4"])
def damaged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    frames = numbered_frames(45, height=96, width=128)
    if "avi" in request.param:
        return damage(write_video(folder / "a.avi", frames, codec="mpeg4", b_frames=0), seed=2, packets=range(14, 22))
    return damage(write_video(folder / "a.mp4", frames, **H264), seed=1, packets=range(23, 26))


def test_flagged_frames_are_counted_and_good_ones_before_stay(damaged: Path) -> None:
    flags = plain_flags(damaged)
    assert 0 < sum(flags) < 30
    with open_reader(damaged) as reader:
        decoded = reader.read(np.arange(reader.num_frames))
    assert decoded.untrue is not None
    assert f"flagged {sum(flags)} of 45 frames" in str(decoded.damage)
    assert (decoded.untrue | ~np.array(flags)).all()
    true = [frame_number(frame) for frame in decoded.frames[~decoded.untrue]]
    assert true == np.flatnonzero(~decoded.untrue).tolist()
    assert 0 in true
    assert 44 in true  # the next key frame ends it


def test_a_frame_is_the_same_whatever_else_is_read(damaged: Path) -> None:
    with open_reader(damaged) as reader:
        whole = reader.read(np.arange(45))
    rng = np.random.default_rng(0)
    for _ in range(12):
        wanted = np.sort(rng.choice(45, 4, replace=False))
        with open_reader(damaged, threads=int(rng.integers(1, 3))) as reader:
            part = reader.read(wanted)
        assert np.array_equal(part.frames, whole.frames[wanted])
        if part.untrue is not None:  # else no damage was met on the way, and none of these is concerned
            assert np.array_equal(part.untrue, whole.untrue[wanted])
        else:
            assert not whole.untrue[wanted].any()


def job_of(path: Path, **policy: object) -> VideoJob:
    policy = GridPolicy.model_validate(
        {"policy": "grid", "temporal": 9, "spatial": 1, "num_frames": 4, "stride": 1, "target_fps": None, **policy}
    )
    starts = np.arange(9) * 5
    geometry = np.zeros((9, 9), np.float32)
    geometry[:, 7], geometry[:, 8] = 1, starts
    request = CropRequest("g", policy, np.arange(9), geometry, (0, 1, 2, 3))
    return VideoJob(row=0, video_id="a", path=str(path), part=RowPart(1.5), requests=(request,))


def test_crops_that_show_damaged_frames_are_masked_unless_the_recipe_keeps_them(damaged: Path) -> None:
    parts: list[VideoFrames] = []
    with open_reader(damaged) as reader:
        untrue = reader.read(np.arange(45)).untrue
    outcome = read_video(job_of(damaged), open_reader, parts.append)
    assert outcome.status == "damaged"
    assert "of 45 frames as damaged" in (outcome.error or "")
    complete = (parts[0].crops[0].current != NOT_DECODED).all(axis=1)
    assert complete.tolist() == [not untrue[5 * k : 5 * k + 4].any() for k in range(9)]
    assert 0 < complete.sum() < 9
    outcome = read_video(job_of(damaged, damaged="keep"), open_reader, parts.append)
    assert outcome.status == "damaged"
    assert (parts[1].crops[0].current != NOT_DECODED).all()


def test_one_refused_packet_costs_what_hangs_on_it_and_no_more(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", numbered_frames(45), codec="mpeg4", b_frames=0)
    place, size = payloads(path)[13]
    content = bytearray(path.read_bytes())
    content[place : place + size] = b"\x11" * size
    path.write_bytes(content)
    with open_reader(path) as reader:
        decoded = reader.read(np.arange(reader.num_frames))
    assert decoded.error is None
    assert "refused 1 packet and went on" in str(decoded.damage)
    shown = [frame_number(frame) for frame in decoded.frames[~decoded.untrue]]
    assert shown == [*range(13), *range(24, 45)]
    times = reader.frame_times_s[decoded.indices][~decoded.untrue]
    assert np.allclose(times, np.array(shown) / 30, atol=1e-3)


def test_what_a_decoder_does_not_flag_is_left_alone(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(30))
    with DecodePool(1) as pool, pool.open_reader(path) as reader:
        decoded = reader.read(np.arange(30))
    assert (decoded.untrue, decoded.damage, decoded.error) == (None, None, None)


def test_flags_come_through_the_process_boundary(damaged: Path) -> None:
    with open_reader(damaged) as reader:
        here = reader.read(np.arange(45))
    with DecodePool(1) as pool, pool.open_reader(damaged) as reader:
        there = reader.read(np.arange(45))
    assert np.array_equal(here.untrue, there.untrue)
    assert here.damage == there.damage


def test_damage_spreads_to_the_next_key_frame_and_back_over_pictures_between() -> None:
    def spread(kinds: str, flagged: set[int], lost: set[int] = frozenset()) -> list[int]:
        n = range(len(kinds))
        masks = (
            [k in flagged for k in n],
            [c == "K" for c in kinds],
            [c == "b" for c in kinds],
            [k in lost for k in n],
        )
        return np.flatnonzero(_spread(*(np.array(mask) for mask in masks))).tolist()

    assert spread("KPPPKPP", {2}) == [2, 3]
    assert spread("KbbPbbPKPP", {6}) == [4, 5, 6]
    assert spread("KbbPbbPKPP", {3}) == [1, 2, 3, 4, 5, 6]
    assert spread("KbbPbbPKPP", {4}) == [4, 5]
    assert spread("KPPKPP", set(), {1}) == [1, 2]
    assert spread("KPPKPP", set(), {3}) == []
    assert spread("KKKK", {1}) == [1]


def test_words_say_how_many() -> None:
    assert "flagged 2 of 9 frames as damaged; 1 frames" in str(Damage(np.arange(9) < 3, 2, 9))
    assert "refused 3 packets" in str(Damage(np.zeros(9, bool), 0, 9, 3, "broken data"))


def test_a_fingerprint_names_the_rule_only_where_it_is_not_the_usual_one() -> None:
    usual = GridPolicy.model_validate({"policy": "grid"})
    assert "damaged" not in usual.model_dump(mode="json")
    kept = GridPolicy.model_validate({"policy": "grid", "damaged": "keep"})
    assert fingerprint(kept.model_dump(mode="json")) != fingerprint(usual.model_dump(mode="json"))
    assert GridPolicy.model_validate(kept.model_dump(mode="json")) == kept


KEY = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 15 + "01", "encryption_kid": "00" * 15 + "02"}


def test_encrypted_packets_are_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(20), container_options=KEY)
    info = inspect_video(path)
    assert (info.status, info.num_frames) == ("unreadable", 0)
    assert (info.error or "").startswith("encrypted")
    clear = write_video(tmp_path / "b.mp4", numbered_frames(20))
    left = iter(range(100))
    monkeypatch.setattr(scan, "is_encrypted", lambda packet: next(left) >= 12)
    with pytest.raises(VideoError, match=r"encrypted \(from packet 12 of 20 on"):
        open_reader(clear)


def test_a_track_of_webm_that_names_a_key_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "a.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=30)
        stream.width, stream.height, stream.metadata["title"] = 64, 48, "x" * 40
        for frame in numbered_frames(10, height=48, width=64):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert inspect_video(path).status == "ok"

    def element(name: str, content: bytes) -> bytes:
        return bytes.fromhex(name) + bytes([0x80 | len(content)]) + content

    encryption = element("5035", element("47E1", b"\5") + element("47E2", b"key number 12345"))
    encoding = element("6240", element("5033", b"\1") + encryption)
    encoding += element("EC", bytes(40 - len(encoding) - 2))  # Void, to fill the place of the title
    content = path.read_bytes()
    title = bytes.fromhex("536E") + bytes([0x80 | 40]) + b"x" * 40
    assert content.count(title) == 1
    path.write_bytes(content.replace(title, element("6D80", encoding)))
    info = inspect_video(path)
    assert (info.status, info.error) == (
        "unreadable",
        "encrypted (its track names a key): no frame can be decoded without its key",
    )


def test_broken_data_are_no_question_of_rights() -> None:
    error = av.error.PermissionError(errno.EPERM, "Operation not permitted")
    assert describe_error(error) == "broken data"
