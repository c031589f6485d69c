"""Members of shards as rows: videos by their names, with what lies beside them as columns.

A webdataset shard holds ``key.mp4`` with ``key.json``, ``key.cls`` or ``key.txt`` beside it. The values of the JSON
become columns of their own names, the others columns ``cls``, ``txt`` ...
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from extract.catalog.listed_video import ListedVideo
from extract.catalog.passed_over import PassedOver
from extract.places.elsewhere import VIDEO_SUFFIXES, member_of
from extract.places.files import Files
from extract.places.shards import Member, Members
from pipeline.errors import VideoError

TEXT_SUFFIXES = ("cls", "txt", "label", "labels", "split", "json")
MAX_TEXT_BYTES = 1 << 20


def rows_of_shard(
    holder: Path | str, shard_id: str, files: Files, passed: PassedOver, *, with_columns: bool
) -> list[ListedVideo]:
    """Return a row for each video in a shard; none where it cannot be read, which is noted.

    Parameters
    ----------
    holder : Path or str
        A file of this machine, or an address.
    shard_id : str
        Ids of its members begin with it.
    files : Files
    passed : PassedOver
        Takes what is left out.
    with_columns : bool
        Whether what lies beside the videos is wanted: it is read then.
    """
    named = holder if isinstance(holder, Path) else Path(holder.rpartition("/")[2])
    try:
        members = files.members(holder)
        videos = {name: m for name, m in members.by_name.items() if name.lower().endswith(VIDEO_SUFFIXES)}
        columns = _columns(holder, members, videos, files, passed) if with_columns else {}
    except VideoError as error:
        passed.add(f"a shard that cannot be read now: {error}", named)
        return []
    if members.num_passed_over:
        passed.add(f"members of a shard that are not read, such as {members.passed_over[0]}", named)
    if not videos:
        kinds = ", ".join(sorted({Path(name).suffix or "(no suffix)" for name in members.by_name})[:5])
        passed.add(f"a shard without videos: it holds {kinds or 'nothing'}", named)
    rows = []
    for name, member in videos.items():
        video_id = f"{shard_id}/{name}"
        place = member_of(holder, name, member.num_bytes)
        rows.append(ListedVideo(video_id, place, {"path": video_id, **columns.get(name, {})}))
    return rows


def _columns(
    holder: Path | str, members: Members, videos: Mapping[str, Member], files: Files, passed: PassedOver
) -> dict[str, dict[str, object]]:
    """Return video -> columns, the same ones for each video."""
    by_key: dict[str, list[str]] = {}
    for name in videos:
        for key in {_stem(name), _key(name)}:
            by_key.setdefault(key, []).append(name)
    beside = {
        name: member
        for name, member in members.by_name.items()
        if name.rpartition(".")[2].lower() in TEXT_SUFFIXES and (_stem(name) in by_key or _key(name) in by_key)
    }
    for name in [name for name, member in beside.items() if member.num_bytes > MAX_TEXT_BYTES]:
        passed.add(f"a text of more than {MAX_TEXT_BYTES} bytes in a shard", Path(name))
        del beside[name]
    found: dict[str, dict[str, object]] = {name: {} for name in videos}
    for (name, _), content in zip(beside.items(), files.texts(holder, list(beside.values())), strict=True):
        values = _values(name, content, passed)
        for video in by_key.get(_stem(name)) or by_key.get(_key(name)) or []:
            found[video] |= values
    every = {column: None for columns in found.values() for column in columns}
    return {name: every | columns for name, columns in found.items()}


def _values(name: str, content: bytes, passed: PassedOver) -> dict[str, object]:
    suffix = name.rpartition(".")[2].lower()
    try:
        text = content.decode()
        if suffix != "json":
            return {suffix: text.strip() or None}
        fields = json.loads(text)
    except (ValueError, RecursionError):
        passed.add(f"a member of a shard that is no {'JSON' if suffix == 'json' else 'text'}", Path(name))
        return {}
    if not isinstance(fields, dict):
        return {suffix: _as_text(fields)}
    return {str(key): _as_text(value) for key, value in fields.items() if key != "path"}


def _as_text(value: object) -> object:
    if isinstance(value, list):
        return [str(item) for item in value if isinstance(item, str | int | float)]
    return None if value is None or isinstance(value, dict) else str(value)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _key(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]
