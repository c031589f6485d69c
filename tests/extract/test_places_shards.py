"""Members of tar and zip shards: read where they lie, whatever their names, sizes and damage."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from extract.places.elsewhere import Elsewhere, member_of
from extract.places.files import Files
from extract.places.shards import Members
from pipeline.errors import VideoError
from tests.support.places import DATA, sha256
from tests.support.places import files as files
from tests.support.places import server as server
from tests.support.places import web as web
from tests.support.web import WebServer


def tar_of(members: dict[str, bytes], **more: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **more) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_of(members: dict[str, bytes], compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


GOOD = {"./a.mp4": b"A" * 700, "in/" + "n" * 150 + ".mp4": b"B" * 5, "ü b#.mp4": DATA[:9000], "e.txt": b""}


@pytest.mark.parametrize(
    "shard",
    [tar_of(GOOD), tar_of(GOOD, format=tarfile.GNU_FORMAT), zip_of(GOOD, zipfile.ZIP_STORED),
     zip_of(GOOD, zipfile.ZIP_DEFLATED)],
    ids=["pax", "gnu", "stored", "deflated"],
)  # fmt: skip
def test_members_are_read_where_they_lie(shard: bytes, web: WebServer, files: Files, tmp_path: Path) -> None:
    local = tmp_path / "s.tar"
    local.write_bytes(shard)
    web.files["/s.tar"] = shard
    for holder in (local, f"{web.address}/s.tar"):
        assert set(files.members(holder).by_name) == {name.removeprefix("./") for name in GOOD}
        for name, data in GOOD.items():
            place = member_of(holder, name.removeprefix("./"))
            with files.lend(Elsewhere(place.address, len(data), sha256(data))) as lease:
                assert lease.path.read_bytes() == data
        with pytest.raises(VideoError, match="no such member") as gone:
            files.lend(member_of(holder, "b.mp4"))
        assert gone.value.status == "missing"


def members_of(files: Files, path: Path, shard: bytes) -> Members:
    path.write_bytes(shard)
    return files.members(path)


def test_hostile_names_and_kinds_are_passed_over(files: Files, tmp_path: Path) -> None:
    bad = ["../up.mp4", "/abs.mp4", "a/../../b.mp4", "back\\slash.mp4", "bell\x07.mp4", "n" * 2000 + ".mp4"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in [*bad, "good.mp4"]:
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    for kind, shard in (("tar", buffer.getvalue()), ("zip", zip_of(dict.fromkeys([*bad, "good.mp4"], b"abc"), 0))):
        found = members_of(files, tmp_path / f"s.{kind}", shard)
        assert set(found.by_name) == {"good.mp4"}, kind
        assert found.num_passed_over == len(bad) + (kind == "tar")
        assert "leads out" in found.passed_over[0]


def test_bombs_cost_nothing(files: Files, tmp_path: Path) -> None:
    bomb = members_of(files, tmp_path / "bomb.zip", zip_of({"zero.mp4": bytes(50 << 20)}, zipfile.ZIP_DEFLATED))
    assert not bomb.by_name
    assert "would unpack" in bomb.passed_over[0]
    lying = bytearray(zip_of({"a.mp4": bytes(9000) + os.urandom(900)}, zipfile.ZIP_DEFLATED))
    directory = lying.rindex(b"PK\x01\x02")
    lying[directory + 24 : directory + 28] = (1000).to_bytes(4, "little")
    path = tmp_path / "lying.zip"
    path.write_bytes(bytes(lying))
    with pytest.raises(VideoError, match="unpacks to more"):
        files.lend(member_of(path, "a.mp4"))
    header = tarfile.TarInfo("x" * 200)
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 8 << 30
    huge = header.tobuf(tarfile.GNU_FORMAT)
    path = tmp_path / "name.tar"
    with path.open("wb") as file:
        file.write(huge)
        file.truncate(9 << 30)
    with pytest.raises(VideoError, match=r"a header of \d+ bytes"):
        files.members(path)


def test_a_cut_shard_says_so(files: Files, tmp_path: Path) -> None:
    shard = tar_of({"a.mp4": DATA, "b.mp4": DATA})
    for cut in (300_000, 300_544, 301_000, 500_000):
        with pytest.raises(VideoError, match=r"breaks off|other bytes"):
            members_of(files, tmp_path / f"{cut}.tar", shard[:cut])
    with pytest.raises(VideoError, match="expected a zip file"):
        members_of(files, tmp_path / "cut.zip", zip_of(GOOD, 0)[:5000])


def test_random_damage_never_gets_out_of_hand(files: Files, tmp_path: Path) -> None:
    import random

    rng = random.Random(3)
    for shard in (tar_of(GOOD), zip_of(GOOD, zipfile.ZIP_DEFLATED)):
        for k in range(60):
            damaged = bytearray(shard)
            for _ in range(rng.randrange(1, 8)):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            path = tmp_path / f"d{k}.tar"
            path.write_bytes(bytes(damaged))
            try:
                names = list(files.members(path).by_name)
            except VideoError:
                continue
            for name in names:
                with suppress(VideoError):
                    files.lend(member_of(path, name)).close()
        assert not list((tmp_path / "cache").glob("*.partial"))


def test_a_server_without_ranges_is_named(web: WebServer, files: Files) -> None:
    web.files["/s.tar"] = tar_of(GOOD)
    web.without_ranges |= {"/s.tar", "/a.mp4"}
    with files.lend(Elsewhere(f"{web.address}/a.mp4")) as lease:
        assert lease.path.read_bytes() == DATA, "whole files need no ranges"
    with pytest.raises(VideoError, match="does not send parts of files"):
        files.members(f"{web.address}/s.tar")
