"""Listed videos are found in the catalogue by 16 bytes each, whatever their order and number."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.catalog.known_videos import Places, known_videos
from pipeline import FeatureStore


class Unlucky(str):
    """A text whose hash is that of others."""

    __slots__ = ()

    def __hash__(self) -> int:
        return len(self) % 3


@settings(deadline=None, max_examples=40)
@given(ids=st.lists(st.text(max_size=3), max_size=30), asked=st.lists(st.text(max_size=3), max_size=30))
def test_an_id_has_the_first_of_its_places(ids: list[str], asked: list[str]) -> None:
    asked = [*asked, *ids]
    wanted = [ids.index(one) if one in ids else -1 for one in asked]
    assert Places(ids).of(asked) == wanted
    assert Places([Unlucky(one) for one in ids]).of([Unlucky(one) for one in asked]) == wanted


def test_every_video_of_the_catalogue_comes_with_its_place_in_the_list(tmp_path: Path) -> None:
    ds = FeatureStore.create(tmp_path / "s").create_dataset("d")
    ds.append_videos(pa.table({"video_id": ["a", "b", "c", "d"], "label": ["1", "2", "3", "4"]}))
    ds.change_labels({2: {"label": "5"}})
    ds.remove_videos([3])
    found = [(place, line["row"], line["label"]) for place, line in known_videos(ds.refresh(), ["new", "c", "d", "a"])]
    assert found == [(3, 0, "1"), (-1, 1, "2"), (1, 2, "5")]
