"""Videos from elsewhere as files of this machine: fetched into the cache, checked, and lent while they are read."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from extract.places.cache import FileCache, Lease
from extract.places.elsewhere import HTTP_SCHEMES, Elsewhere, Place
from extract.places.hosts import Hosts
from extract.places.http_file import HttpFile
from extract.places.object_file import ObjectFile
from extract.places.shards import Member, Members, RangeSource, list_members, unpacked
from pipeline.errors import VideoError
from pipeline.roots import check_allowed, split_roots
from pipeline.settings import Settings
from pipeline.status import VideoStatus

_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")
_BLOCK_BYTES = 1 << 20
MAX_SHARDS_KNOWN = 8
"""Shards whose members are remembered: rows come in the order of shards."""


class LocalFile:
    """A file of this machine, read in ranges."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by `close`
        except FileNotFoundError:
            raise VideoError("missing: no such shard", VideoStatus.MISSING) from None
        except OSError as error:
            raise VideoError(f"cannot be opened: {(error.strerror or str(error)).lower()}") from None

    def size(self) -> int:
        """Return the number of bytes."""
        return os.fstat(self._file.fileno()).st_size

    def read_range(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer at the end."""
        try:
            return os.pread(self._file.fileno(), length, start)
        except OSError as error:
            raise VideoError(f"cannot be read: {(error.strerror or str(error)).lower()}") from None

    def stream(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start` to `stop`."""
        at, end = start, self.size() if stop is None else stop
        while at < end and (block := self.read_range(at, min(_BLOCK_BYTES, end - at))):
            at += len(block)
            yield block

    def stop(self) -> None:
        """Do nothing: a file of this machine keeps nobody waiting."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Files:
    """Lends videos as local files, wherever they lie. Safe to use from many threads.

    Parameters
    ----------
    cache : FileCache
    hosts : Hosts
    roots : str, optional
        `SCALE_ROOTS`: shards of this machine must lie in one of them.
    """

    def __init__(self, cache: FileCache, hosts: Hosts, roots: str | None = None) -> None:
        self._cache = cache
        self._hosts = hosts
        self._roots = split_roots(roots)
        self._known: OrderedDict[object, Members] = OrderedDict()
        self._lock = threading.Lock()
        self._under_way: set[RangeSource] = set()
        self._num_stops = 0

    @classmethod
    def of(cls, settings: Settings) -> Files:
        """Return what these settings allow."""
        cache = FileCache(settings.cache_folder / "videos", settings.cache_bytes)
        return cls(cache, Hosts.parse(settings.hosts), settings.roots)

    def lend(self, place: Place | str) -> Lease:
        """Return a local file with the bytes of a video; close it when they are no longer needed.

        Raises
        ------
        VideoError
            If they cannot be had, or are not those of the catalogue.
        InvalidInputError
            If they may not be fetched from there.
        """
        if not isinstance(place, Elsewhere):
            return Lease(Path(place))
        self.check(place)
        key = hashlib.sha256(place.address.encode()).hexdigest()[:32]
        suffix = place.suffix if _SUFFIX.fullmatch(place.suffix) else ""
        wanted = f"{key}-{place.sha256}{suffix}" if place.sha256 else None
        if wanted and (lease := self._cache.find(wanted)) is not None:
            return lease
        with self._cache.alone(key):
            if wanted and (lease := self._cache.find(wanted)) is not None:
                return lease
            return self._fetch(place, key, suffix)

    def stop(self) -> None:
        """End every fetch that is under way; those who wait for it are told. Later ones are fetched as ever."""
        with self._lock:
            self._num_stops += 1
            under_way = list(self._under_way)
        for source in under_way:
            source.stop()

    def check(self, place: Elsewhere) -> None:
        """Hold a place against the hosts and folders that are allowed.

        Raises
        ------
        InvalidInputError
        """
        local = place.local_holder
        check_allowed(local or place.holder, self._roots, what="video")
        if local is None:
            self._hosts.check(place.holder)

    def members(self, holder: str | Path) -> Members:
        """Return what a shard holds; its directory is read once for as long as it stays the same.

        Raises
        ------
        VideoError
        """
        source = self.open(holder)
        try:
            return self._members(holder, source)
        finally:
            source.close()

    def texts(self, holder: str | Path, members: list[Member]) -> Iterator[bytes]:
        """Yield the bytes of small members of a shard, one after the other."""
        source = self.open(holder)
        try:
            for member in members:
                yield b"".join(unpacked(source, member))
        finally:
            source.close()

    def open(self, holder: str | Path) -> RangeSource:
        """Open a file, here or elsewhere, for reading ranges of it."""
        if isinstance(holder, Path):
            return LocalFile(holder)
        if holder.partition("://")[0] in HTTP_SCHEMES:
            return HttpFile(holder, self._hosts)
        return ObjectFile(holder, self._hosts)

    def _members(self, holder: str | Path, source: RangeSource) -> Members:
        changed = os.stat(holder).st_mtime_ns if isinstance(holder, Path) else 0
        key = (holder, source.size(), changed)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        found = list_members(source)
        with self._lock:
            self._known[key] = found
            while len(self._known) > MAX_SHARDS_KNOWN:
                self._known.popitem(last=False)
        return found

    def _fetch(self, place: Elsewhere, key: str, suffix: str) -> Lease:
        source = self.open(place.local_holder or place.holder)
        num_stops = self._num_stops
        with self._lock:
            self._under_way.add(source)
        try:
            member = self._member(place, source)
            num_bytes = source.size() if member is None else member.num_bytes
            if place.num_bytes is not None and num_bytes != place.num_bytes:
                raise _changed(f"{place.num_bytes} bytes", f"{num_bytes}")

            def fill(file: BinaryIO) -> str:
                digest = hashlib.sha256()
                for block in source.stream() if member is None else unpacked(source, member):
                    if num_stops != self._num_stops:
                        raise VideoError(f"cannot be fetched: {place}: the run was stopped", VideoStatus.INTERRUPTED)
                    file.write(block)
                    digest.update(block)
                found = digest.hexdigest()
                if place.sha256 is not None and found != place.sha256:
                    raise _changed(f"sha256 {place.sha256[:16]}...", f"{found[:16]}...")
                return f"{key}-{found}{suffix}"

            return self._cache.add(num_bytes, fill)
        finally:
            with self._lock:
                self._under_way.discard(source)
            source.close()

    def _member(self, place: Elsewhere, source: RangeSource) -> Member | None:
        if place.member is None:
            return None
        found = self._members(place.local_holder or place.holder, source).by_name.get(place.member)
        if found is None:
            raise VideoError("missing: the shard holds no such member", VideoStatus.MISSING)
        return found


def _changed(expected: str, found: str) -> VideoError:
    return VideoError(
        f"changed since it was catalogued: expected {expected}, found {found}; give a changed video a new path"
    )
