"""Members of tar and zip shards: where each lies, without unpacking anything.

A tar file is walked from header to header, a zip file by its directory. Names are looked up, never used as paths, and
what is not a plain member (links, devices, what is encrypted, names that lead out) is passed over and counted.
"""

from __future__ import annotations

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import VideoError
from pipeline.storage.range_file import SizedFile

MAX_MEMBERS = 1_000_000
MAX_NAME_CHARS = 1024
MAX_HEADER_BYTES = 1 << 20
"""Of one read while walking: a header that claims more (a name of gigabytes) is no header."""
MAX_DIRECTORY_BYTES = 1 << 26
MAX_RATIO = 200
"""Bytes that a packed byte may become. Videos hardly shrink; a bomb of zeros is a thousandfold."""
_WINDOW_BYTES = 1 << 16
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")


class RangeSource(Protocol):
    """A file that is read in ranges."""

    def size(self) -> int:
        """Return the number of bytes."""

    def read_range(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer at the end."""

    def stream(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start` to `stop`."""

    def stop(self) -> None:
        """Make whatever another thread does with it fail soon."""

    def close(self) -> None:
        """Let the file go."""


@dataclass(frozen=True, slots=True)
class Member:
    """One plain file in a shard."""

    start: int
    """Of its bytes in a tar file, of its header in a zip file."""
    num_bytes: int
    """Unpacked."""
    num_packed: int
    is_deflated: bool = False
    is_zip: bool = False
    crc: int | None = None


@dataclass(frozen=True)
class Members:
    """What a shard holds."""

    by_name: dict[str, Member]
    passed_over: tuple[str, ...] = ()
    """Names, with the reason, of the first members that are not read."""
    num_passed_over: int = 0


def list_members(source: RangeSource) -> Members:
    """Return the plain files of a tar or zip file, in its order.

    Raises
    ------
    VideoError
        If it is neither, is cut, or holds more than is ever read.
    """
    size = source.size()
    if source.read_range(0, 4)[:2] == b"PK":
        return _list_zip(source, size)
    return _list_tar(source, size)


def unpacked(source: RangeSource, member: Member) -> Iterator[bytes]:
    """Yield the bytes of a member.

    Raises
    ------
    VideoError
        If it is not what its header says, or unpacks to more than that.
    """
    start = member.start
    if member.is_zip:
        header = source.read_range(start, _LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
            raise VideoError("cannot be read: the shard holds no such member where its directory says")
        fields = _LOCAL_HEADER.unpack(header)
        start += _LOCAL_HEADER.size + fields[-2] + fields[-1]
    raw = source.stream(start, start + member.num_packed)
    crc, count = 0, 0
    for block in _inflated(raw, member) if member.is_deflated else raw:
        count += len(block)
        crc = zlib.crc32(block, crc)
        yield block
    if count != member.num_bytes or (member.crc is not None and crc != member.crc):
        raise VideoError("cannot be read: its bytes in the shard are not those that its directory describes")


def _inflated(raw: Iterator[bytes], member: Member) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    left = member.num_bytes
    for piece in raw:
        while piece:
            try:
                block = unpacker.decompress(piece, min(left + 1, 1 << 20))
            except zlib.error as error:
                raise VideoError(f"cannot be read: its bytes in the shard do not unpack ({error})") from None
            left -= len(block)
            if left < 0:
                raise VideoError("cannot be read: it unpacks to more than the shard's directory says")
            yield block
            if unpacker.eof:
                return
            piece = unpacker.unconsumed_tail


def _list_tar(source: RangeSource, size: int) -> Members:
    found: dict[str, Member] = {}
    passed: list[str] = []
    num_passed = 0
    try:
        with tarfile.open(fileobj=_Walk(source, size, MAX_HEADER_BYTES), mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would remember every one
                if info.isdir():
                    continue
                name = _tidy(info.name)
                if (why := _why_not(name, info.isreg() and not info.issparse())) is not None:
                    num_passed += 1
                    passed += [f"{info.name[:80]!r} ({why})"] if len(passed) < 3 else []
                    continue
                if info.size < 0 or info.offset_data + info.size > size:
                    raise VideoError("expected a whole tar file, found one that breaks off")
                found[name] = Member(info.offset_data, info.size, info.size)  # a later one of the same name counts
                if len(found) + num_passed > MAX_MEMBERS:
                    raise VideoError(f"expected at most {MAX_MEMBERS} members in a shard, found more")
            if source.read_range(tar.offset, tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise VideoError(
                    "expected a whole tar file, found one that breaks off"
                )  # between members it seems whole
    except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError) as error:
        raise VideoError(f"expected a tar file, found other bytes: {error}") from None
    return Members(found, tuple(passed), num_passed)


def _list_zip(source: RangeSource, size: int) -> Members:
    found: dict[str, Member] = {}
    passed: list[str] = []
    num_passed = 0
    try:
        with zipfile.ZipFile(_Walk(source, size, MAX_DIRECTORY_BYTES)) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, EOFError, struct.error, NotImplementedError) as error:
        raise VideoError(f"expected a zip file, found other bytes: {error}") from None
    if len(infos) > MAX_MEMBERS:
        raise VideoError(f"expected at most {MAX_MEMBERS} members in a shard, found {len(infos)}")
    for info in infos:
        if info.is_dir():
            continue
        name = _tidy(info.filename)
        is_link = info.create_system == 3 and (info.external_attr >> 28) == 0o12
        is_plain = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not info.flag_bits & 1
        why = _why_not(name, is_plain and not is_link)
        if why is None and info.file_size > MAX_RATIO * max(info.compress_size, 1):
            why = f"it would unpack {info.file_size / max(info.compress_size, 1):.0f}-fold"
        if why is not None:
            num_passed += 1
            passed += [f"{info.filename[:80]!r} ({why})"] if len(passed) < 3 else []
            continue
        is_deflated = info.compress_type == zipfile.ZIP_DEFLATED
        found[name] = Member(info.header_offset, info.file_size, info.compress_size, is_deflated, True, info.CRC)
    return Members(found, tuple(passed), num_passed)


def _tidy(name: str) -> str:
    """Return a name without the ``./`` that tar puts in front."""
    while name.startswith("./"):
        name = name[2:]
    return name


def _why_not(name: str, is_plain: bool) -> str | None:
    if not is_plain:
        return "no plain file"
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "" in parts or "\\" in name:
        return "its name leads out of the shard"
    if len(name) > MAX_NAME_CHARS or not name.isprintable():
        return "its name cannot be printed"
    return None


class _Walk(SizedFile):
    """A shard as a file that is read here and there: bytes come in windows, and no read may be monstrous."""

    def __init__(self, source: RangeSource, size: int, max_read: int) -> None:
        super().__init__(size)
        self._source, self._max_read = source, max_read
        self._window, self._window_start = b"", 0

    def _bytes(self, start: int, length: int) -> bytes:
        if length > self._max_read:
            raise ValueError(f"a header of {length} bytes")
        if not self._window_start <= start <= start + length <= self._window_start + len(self._window):
            self._window = self._source.read_range(start, max(length, min(_WINDOW_BYTES, self._size - start)))
            self._window_start = start
        return self._window[start - self._window_start :][:length]
