"""Videos at addresses as rows: one by one, as members of shards there, or all that a bucket's prefix holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from extract.catalog.listed_video import ListedVideo
from extract.catalog.passed_over import UNFINISHED, PassedOver
from extract.catalog.shard_rows import rows_of_shard
from extract.places.elsewhere import HTTP_SCHEMES, VIDEO_SUFFIXES, Elsewhere, names_shard, place_at
from extract.places.files import Files
from extract.places.object_file import bucket_of
from pipeline.errors import InvalidInputError, NoDataError

_MAGIC = re.compile(r"[*?\[]")


def rows_at_address(pattern: str, files: Files, passed: PassedOver, *, with_columns: bool) -> Iterator[ListedVideo]:
    """Yield the videos that an address means.

    Parameters
    ----------
    pattern : str
        An address; in a bucket with ``*``, ``?``, ``[..]`` within a name and ``**`` over folders, or ending in ``/``
        for every video below.
    files : Files
    passed : PassedOver
    with_columns : bool
        Whether what lies beside the videos in shards is wanted.

    Raises
    ------
    InvalidInputError
        If a web server is asked for a listing, or the host is not allowed.
    NoDataError
        If nothing in the bucket matches.
    """
    is_web = pattern.partition("://")[0].lower() in HTTP_SCHEMES
    if is_web and "*" in pattern:
        raise InvalidInputError(
            f"expected an address that can be listed, found {pattern}: web servers cannot; write {{000..123}} for "
            "numbers, or name each video in a manifest"
        )
    is_pattern = not is_web and (_MAGIC.search(pattern) is not None or pattern.endswith("/"))
    found = _listed(pattern, files, passed) if is_pattern else [(pattern, place_at(pattern))]
    is_empty = True
    for video_id, place in found:
        is_empty = False
        files.check(place)
        if place.member is None and names_shard(urlsplit(place.address).path):
            yield from rows_of_shard(place.address, video_id, files, passed, with_columns=with_columns)
        else:
            yield ListedVideo(video_id, place, {"path": video_id})
    if is_empty:
        raise NoDataError(f"expected videos at {pattern}, found none; change `videos` in the recipe")


def _listed(pattern: str, files: Files, passed: PassedOver) -> Iterator[tuple[str, Elsewhere]]:
    parts = urlsplit(pattern.replace("?", "%3F").replace("#", "%23"))
    bucket = f"{parts.scheme}://{parts.netloc}"
    files.check(Elsewhere(bucket + "/"))
    wanted = unquote(parts.path).lstrip("/")
    takes_all = wanted.endswith("/") or not wanted
    parts_wanted = (f"{wanted}**/*" if takes_all else wanted).split("/")
    for key, num_bytes in bucket_of(bucket).list("/".join(_fixed_folders(wanted))):
        if _is_meant(parts_wanted, key.split("/")) and (not takes_all or key.lower().endswith(VIDEO_SUFFIXES)):
            if key.lower().endswith(UNFINISHED):
                passed.add("an unfinished download", Path(key))
            else:
                yield f"{bucket}/{key}", Elsewhere(f"{bucket}/{quote(key)}", num_bytes)


def _fixed_folders(pattern: str) -> Iterator[str]:
    for part in pattern.split("/")[:-1]:
        if _MAGIC.search(part):
            return
        yield part


def _is_meant(parts: Sequence[str], names: Sequence[str]) -> bool:
    """Whether the names of a key fit a pattern: ``**`` stands for any folders, all else stays within a name."""
    if not parts or not names:
        return not parts and not names
    if parts[0] == "**" and len(parts) > 1:
        deeper = len(names) > 1 and not names[0].startswith(".") and _is_meant(parts, names[1:])
        return deeper or _is_meant(parts[1:], names)
    wanted = "*" if parts[0] == "**" else parts[0]
    is_hidden = names[0].startswith(".") and not wanted.startswith(".")
    return fnmatchcase(names[0], wanted) and not is_hidden and _is_meant(parts[1:], names[1:])
