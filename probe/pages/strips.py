"""Neighbour strips with real frames: of a report's sampled test videos, and of search results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from probe.index.search import SearchHit
from probe.pages.page import Frames, data_uri, render_page
from probe.pages.report_view import readout_name
from probe.results import NeighbourStrip, ProbeReport

MAX_STRIPS = 12
"""Shown per readout; a page with every test video would weigh hundreds of megabytes."""
MAX_NEIGHBOURS = 6
MAX_SHOTS = 3


@dataclass(frozen=True)
class Shots:
    """The pictures of one video: the middle one large, the others small."""

    main: str | None
    """A data: address; None where the video is gone."""
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tile:
    """One video of a strip."""

    label: str
    video_id: str
    similarity: float | None
    same: bool | None
    """Whether its label is the query's; None where that is not known."""
    shots: Shots
    caption: str = ""


@dataclass(frozen=True)
class Strip:
    """A query and its neighbours."""

    query: Tile
    predicted: str
    correct: bool
    neighbours: tuple[Tile, ...]


@dataclass(frozen=True)
class StripGroup:
    """The strips of one readout."""

    anchor: str
    title: str
    strips: tuple[Strip, ...]
    num_right: int
    num_wrong: int
    num_hidden: int


class ShotSource:
    """Turns the caller's frames into data: addresses, once a row; a video without frames gives a placeholder."""

    def __init__(self, frames: Frames | None) -> None:
        self._frames = frames
        self._cached = lru_cache(maxsize=None)(self._load)

    def shots(self, row: int, count: int) -> Shots:
        """Return `count` pictures of a row: the middle one and its neighbours in time."""
        uris = self._cached(row)
        if not uris:
            return Shots(None)
        middle = len(uris) // 2
        return Shots(uris[middle], tuple(uri for i, uri in enumerate(uris) if i != middle)[: count - 1])

    def _load(self, row: int) -> tuple[str, ...]:
        if self._frames is None:
            return ()
        return tuple(uri for image in self._frames(row)[:MAX_SHOTS] if (uri := data_uri(image)) is not None)


def strip_groups(report: ProbeReport, frames: Frames | None) -> list[StripGroup]:
    """Return the report's strips by readout, right and wrong ones in turn.

    Parameters
    ----------
    report : ProbeReport
    frames : callable or None
        Row -> frames as JPEG or PNG.
    """
    source = ShotSource(frames)
    groups: dict[tuple[str, str, str], list[NeighbourStrip]] = {}
    for strip in report.strips:
        groups.setdefault((strip.crops, strip.feature_set, strip.readout), []).append(strip)
    several = len({where[:2] for where in groups}) > 1
    result = []
    for i, ((crops, feature_set, readout), members) in enumerate(groups.items()):
        shown = alternate(members)[:MAX_STRIPS]
        title = readout_name(readout)
        result.append(
            StripGroup(
                anchor=f"strips-{i}",
                title=f"{title}, {crops}/{feature_set}" if several else title,
                strips=tuple(_strip(member, source) for member in shown),
                num_right=sum(member.correct for member in shown),
                num_wrong=sum(not member.correct for member in shown),
                num_hidden=len(members) - len(shown),
            )
        )
    return result


def alternate(strips: Sequence[NeighbourStrip]) -> list[NeighbourStrip]:
    """Order strips so that right and wrong ones take turns, each in its given order."""
    right = [s for s in strips if s.correct]
    wrong = [s for s in strips if not s.correct]
    paired = [s for pair in zip(right, wrong, strict=False) for s in pair]
    rest = right[len(wrong) :] or wrong[len(right) :]
    return paired + rest


def _strip(strip: NeighbourStrip, source: ShotSource) -> Strip:
    query = Tile(strip.query.label, strip.query.video_id, None, None, source.shots(strip.query.row, MAX_SHOTS))
    near = tuple(
        Tile(n.video.label, n.video.video_id, n.similarity, n.same_label, source.shots(n.video.row, 1))
        for n in strip.neighbours[:MAX_NEIGHBOURS]
    )
    return Strip(query, strip.predicted, strip.correct, near)


def render_search(
    query: str,
    hits: Sequence[SearchHit],
    *,
    index: dict[str, object],
    frames: Frames | None = None,
    query_frames: Sequence[bytes] = (),
    query_label: str | None = None,
    stale: str | None = None,
) -> str:
    """Return the HTML page of one search.

    Parameters
    ----------
    query : str
        Path or id of the video that was asked about.
    hits : sequence of SearchHit
        From :func:`probe.index.search.describe_hits`.
    index : dict
        The index's `meta`, for the provenance.
    frames : callable, optional
        Row -> frames of a stored video.
    query_frames : sequence of bytes
        Frames of the query.
    query_label : str, optional
        Known when the query is a stored video; neighbours are then marked as same or other.
    stale : str, optional
        Why the index may be incomplete.
    """
    source = ShotSource(frames)
    tiles = [
        Tile(
            hit.label or "no label",
            hit.video_id,
            hit.similarity,
            None if query_label is None or hit.label is None else hit.label == query_label,
            source.shots(hit.row, 1),
        )
        for hit in hits
    ]
    own = ShotSource(lambda _row: query_frames).shots(0, MAX_SHOTS)
    return render_page(
        "search.html.j2",
        title=f"Search: {query}",
        eyebrow="Search result",
        query=Tile(query_label or "", query, None, None, own),
        tiles=tiles,
        hits=hits,
        index=index,
        stale=stale,
    )
