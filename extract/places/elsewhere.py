"""How a video is named that is no file of its own: by an address, or as a member of a shard."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from pipeline.storage.opening import OBJECT_SCHEMES

HTTP_SCHEMES = ("http", "https")
VIDEO_SUFFIXES = (
    ".mp4",
    ".webm",
    ".mkv",
    ".avi",
    ".mov",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".flv",
    ".ts",
    ".wmv",
    ".3gp",
    ".ogv",
)
SHARD_SUFFIXES = (".tar", ".zip")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SHARD_OF_ADDRESS = re.compile(r"(.+?\.(?:tar|zip))/(.+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A video that must be brought at hand before it can be opened."""

    address: str
    """``https://``, ``s3://`` ...; of a member of a shard: the shard's (``file://`` too), then ``#`` and its name."""
    num_bytes: int | None = field(default=None, compare=False)
    """As catalogued or listed, where that is known."""
    sha256: str | None = field(default=None, compare=False)
    """As catalogued."""

    @property
    def holder(self) -> str:
        """Address of the file that holds the video: its own, or the shard's."""
        return self.address.partition("#")[0]

    @property
    def member(self) -> str | None:
        """Name within the shard; None for a video that is a file at its address."""
        _, separator, name = self.address.partition("#")
        return unquote(name) if separator else None

    @property
    def local_holder(self) -> Path | None:
        """The shard, where it is a file of this machine."""
        parts = urlsplit(self.holder)
        return Path(os.fsdecode(unquote_to_bytes(parts.path))) if parts.scheme == "file" else None

    @property
    def suffix(self) -> str:
        """Ending of the video's name, with its dot."""
        return os.path.splitext(self.member or unquote(urlsplit(self.holder).path))[1]

    def __str__(self) -> str:
        return self.address


Place = Path | Elsewhere
"""Where a video lies."""


def is_address(text: str) -> bool:
    """Whether a text names something by a scheme, such as ``https://``; ``file://`` and folders do not count."""
    found = _SCHEME.match(text)
    return found is not None and found[1].lower() != "file"


def is_known_address(text: str) -> bool:
    """Whether an address is of a kind that can be read."""
    return text.partition("://")[0].lower() in (*HTTP_SCHEMES, *OBJECT_SCHEMES)


def names_shard(name: str) -> bool:
    """Whether a name is that of a tar or zip file."""
    return name.lower().endswith(SHARD_SUFFIXES)


def member_of(holder: str | Path, name: str, num_bytes: int | None = None) -> Elsewhere:
    """Return a member of a shard that is a local file or has an address."""
    address = Path(os.path.abspath(holder)).as_uri() if isinstance(holder, Path) else holder
    return Elsewhere(f"{address}#{quote(name)}", num_bytes)


def place_at(address: str) -> Elsewhere:
    """Return what an address as people write it means: ``s3://b/clips.tar/a.mp4`` is a member of a shard."""
    address = address.partition("#")[0]
    shard = _SHARD_OF_ADDRESS.fullmatch(address)
    return member_of(shard[1], unquote(shard[2])) if shard else Elsewhere(address)


def place_of_path(path: Path) -> Place:
    """Return the member of a shard that a path means (``shards/a.tar/x.mp4``), or the path itself."""
    for above in path.parents:
        if names_shard(above.name) and os.path.isfile(above):
            return member_of(above, path.relative_to(above).as_posix())
    return path


def place_of_uri(uri: str) -> Place:
    """Return where a catalogued address leads."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file") and not parts.fragment:
        return Path(os.fsdecode(unquote_to_bytes(parts.path)))
    return Elsewhere(uri)
