"""Files made to mislead: each ends as a row with a reason, none reaches beyond itself, none stops a run."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from extract import plan_extract, run_extract
from extract.catalog.find_videos import list_videos
from extract.decoding.decode_pool import DecodePool
from extract.decoding.inspect import inspect_video
from extract.decoding.opening import open_reader
from pipeline import FeatureStore
from pipeline.recipe.dataset import DatasetSpec
from pipeline.settings import Settings
from tests.support.extraction import catalogue, make_videos, tiny_recipe
from tests.support.videos import frame_number, numbered_frames, truncate, write_image_folder, write_video


@pytest.fixture
def listener() -> Iterator[tuple[str, list[bytes]]]:
    """An address on loopback, and what was heard there."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    heard.append(b"a call")

        thread = threading.Thread(target=listen)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}", heard
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


ID3 = b"ID3\3\0\0\0\0\0\x0a" + bytes(10)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("hls.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n"),
        ("hls-far.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://{far}/a.ts\n#EXT-X-ENDLIST\n"),
        ("hls-id3.mp4", ID3 + b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n"),
        ("concat.mp4", b"ffconcat version 1.0\nfile '{target}'\n"),
        ("concat-id3.mp4", ID3 + b"ffconcat version 1.0\nfile '{target}'\n"),
        ("concat.ffconcat", b"file '{target}'\n"),
        ("session.mp4", b"v=0\no=- 0 0 IN IP4 {far}\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"),
        ("dash.mp4", b"<?xml version='1.0'?><!--" + b"x" * 3000 + b"--><MPD profiles='urn:mpeg:dash:profile'></MPD>"),
        ("vobsub.mp4", b"# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n"),
        ("redirect.rm", b"http://{far}/a.rm\n"),
        ("redirect.asf", b"[Reference]\r\nRef1=http://{far}/a.asf\r\n"),
        ("poem.txt", b"Not a video, though FFmpeg would make one of it.\n" * 40),
        ("poem.nfo", b"Not a video, though FFmpeg would make one of it.\n" * 40),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_names_other_files_or_is_text_is_not_opened(tmp_path, listener, name, content):
    far, heard = listener
    target = write_video(tmp_path / "target.ts", numbered_frames(30))
    (tmp_path / "vobsub.sub").symlink_to(target)
    path = tmp_path / name
    path.write_bytes(content.replace(b"{target}", os.fsencode(target)).replace(b"{far}", far.encode()))
    info = inspect_video(path)
    assert info.status == "unreadable"
    assert info.error
    assert not heard


def restamp(source: Path, path: Path, pts_of: Callable[[int, int], int]) -> Path:
    """Copy a video packet by packet; `pts_of` gives each its timestamp, from its number and its own."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(p for p in old.demux(video=0) if p.size):
            packet.pts, packet.dts = pts_of(number, packet.pts or 0), number
            packet.stream = stream
            new.mux(packet)
    return path


def test_empty_packets_of_theora_repeat_a_frame(tmp_path):
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs FFmpeg's command to encode Theora (make system)")
    path = tmp_path / "a.ogv"
    still = ["-f", "lavfi", "-i", "color=c=red:s=64x48:r=25:d=1", "-vf", "hue=h='if(gt(n,12),90,0)'"]
    subprocess.run(
        ["ffmpeg", "-nostdin", "-v", "error", *still, "-c:v", "libtheora", str(path)], check=True, timeout=60
    )
    with av.open(str(path)) as container:
        assert any(packet.size == 0 and packet.pts is not None for packet in container.demux(video=0))
    info = inspect_video(path)
    assert (info.status, info.stops_early) == ("ok", None)
    with open_reader(path) as reader:
        decoded = reader.read(np.arange(reader.num_frames))
        assert len(decoded.indices) == info.num_frames
        assert reader.frame_times_s[-1] > 12 / 25
    assert decoded.error is None


@pytest.mark.parametrize(
    "pts_of",
    [lambda number, pts: 100 - number, lambda number, pts: pts - 190 if number == 25 else pts],
    ids=["backwards", "one six frames too early"],
)
def test_frames_keep_their_order_where_timestamps_do_not_ascend(tmp_path, pts_of):
    source = write_video(tmp_path / "a.mkv", numbered_frames(40), b_frames=0)
    with open_reader(restamp(source, tmp_path / "b.mkv", pts_of)) as reader:
        decoded = reader.read(np.arange(reader.num_frames))
    assert decoded.error is None
    assert [frame_number(frame) for frame in decoded.frames] == list(range(40))


def test_joined_transport_streams_keep_their_pace(tmp_path):
    slow = write_video(tmp_path / "slow.ts", numbered_frames(20), fps=25)
    fast = write_video(tmp_path / "fast.ts", numbered_frames(20), fps=50)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(slow.read_bytes() + fast.read_bytes())
    info = inspect_video(joined)
    assert info.num_frames == 40
    assert info.duration_s == pytest.approx(20 / 25 + 20 / 50, abs=0.05)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_hole_of_zeros_is_counted_by_decoding(tmp_path, codec):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else None
    frames = numbered_frames(40, height=96, width=160)
    path = write_video(
        tmp_path / "a.mp4", frames, codec=codec, options=options, container_options={"movflags": "faststart"}
    )
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2
    content[start : start + 2000] = bytes(2000)
    path.write_bytes(content)
    info = inspect_video(path)
    assert info.counted_by == "decoding"
    assert 0 < info.num_frames < 40
    with open_reader(path) as reader:
        assert len(reader.read(np.arange(reader.num_frames)).indices) == info.num_frames


def test_one_bad_image_costs_one_frame(tmp_path):
    folder = write_image_folder(tmp_path / "frames", numbered_frames(12))
    (folder / "frame1.png").write_text("not an image")
    (folder / "frame5.png").write_bytes(b"")
    (folder / "frame8.png").write_text("ffconcat version 1.0\nfile 'frame2.png'\n")
    os.mkfifo(folder / "frame13.png")
    (folder / "frame14.png").symlink_to("frame14.png")
    (folder / "frame15.png").symlink_to("gone.png")
    with open_reader(folder) as reader:
        assert reader.num_frames == 12
        decoded = reader.read(np.arange(12))
    assert decoded.indices.tolist() == [1, 2, 3, 5, 6, 8, 9, 10, 11]
    assert decoded.error is not None
    assert "frame1.png" in decoded.error
    for image in folder.glob("frame*.png"):
        if image.is_file() and not image.is_symlink():
            image.write_text("not an image")
    info = inspect_video(folder)
    assert info.status == "unreadable"
    assert "frame1.png" in (info.error or "")


def test_a_reason_is_about_its_own_file(tmp_path):
    """FFmpeg's last words about one file used to be told of the next, too."""
    path = write_video(tmp_path / "noisy.mp4", numbered_frames(30), container_options={"movflags": "faststart"})
    truncate(path, 0.9)
    (tmp_path / "short.ogv").write_bytes(b"OggS\0\2" + bytes(22))
    with DecodePool(1) as pool:
        alone = pool.inspect(tmp_path / "short.ogv")
    with DecodePool(1) as pool:
        assert pool.inspect(path).status == "partial"
        assert pool.inspect(tmp_path / "short.ogv") == alone


def test_links_in_circles_hide_nothing_beside_them(tmp_path):
    write_video(tmp_path / "sub" / "a.mp4", numbered_frames(5))
    (tmp_path / "round.mp4").symlink_to("round.mp4")
    (tmp_path / "sub" / "round").symlink_to("round")
    (tmp_path / "sub" / "up").symlink_to("..")
    settings = Settings(data=tmp_path)
    for pattern in ("**/*.mp4", "*/*.mp4"):
        found = [v.video_id for v in list_videos(DatasetSpec(name="set", videos=pattern), settings)]
        assert "sub/a.mp4" in found
    assert "up" not in str(found)


def test_an_animated_webp_says_what_it_is(tmp_path):
    images = [Image.fromarray(frame) for frame in numbered_frames(4)]
    images[0].save(tmp_path / "moving.webp", save_all=True, append_images=images[1:], duration=40)
    images[0].save(tmp_path / "still.webp")
    assert "animated WebP" in (inspect_video(tmp_path / "moving.webp").error or "")
    assert inspect_video(tmp_path / "still.webp").num_frames == 1


def test_files_replaced_after_they_were_catalogued_cost_their_own_rows_only(tmp_path, program):
    """Crops of a smaller picture would lie outside it: that used to stop the whole run."""
    videos = make_videos(tmp_path / "videos", [20, 24, 22, 26, 21])
    (videos / "round.mp4").symlink_to("round.mp4")
    recipe, settings = tiny_recipe(program, shard_rows=2), Settings(data=videos)
    store = FeatureStore.create(str(tmp_path / "store"))
    catalogue(recipe, store, settings)
    write_video(videos / "v000.mp4", numbered_frames(20, height=16, width=16))
    length = (videos / "v001.mp4").stat().st_size
    smaller = write_video(tmp_path / "smaller.mp4", numbered_frames(2, height=16, width=16)).read_bytes()
    (videos / "v001.mp4").write_bytes(smaller + b"\0\0\0\x08free" * ((length - len(smaller)) // 8 + 1))
    os.truncate(videos / "v001.mp4", length)
    (videos / "v002.mp4").unlink()
    (videos / "v003.mp4").write_text("gone bad")
    report = run_extract(plan_extract(recipe, store, settings), store, settings)
    rows = {row["video_id"]: row for row in store.dataset("set").status("grid", "tiny").to_pylist()}
    statuses = [rows[name]["status"] for name in sorted(rows)]
    assert statuses == ["unreadable", "unreadable", "unreadable", "missing", "unreadable", "ok"]
    assert "too many symbolic links" in rows["round.mp4"]["error"]
    assert "changed since it was catalogued" in rows["v000.mp4"]["error"]
    assert "frames of 64x40 px, found 16x16" in rows["v001.mp4"]["error"]
    assert report.did["videos_failed"] == 5
