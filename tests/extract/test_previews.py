"""Small pictures kept while extracting: from frames that were decoded anyway, bounded, of the right video."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from extract.pixels.preview_strips import StripMaker
from extract.pixels.thumbnails import catalogue_thumbnails
from pipeline.recipe import parse_recipe
from pipeline.recipe.previews import PreviewSpec
from pipeline.settings import Settings
from pipeline.verify.verify_store import verify_store
from tests.support.extraction import extract_all, make_videos, read_everything, tiny_program, tiny_recipe


def opened(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(jpeg))


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return tiny_program(tmp_path_factory.mktemp("program"))


def with_previews(recipe, **spec):
    return parse_recipe({**recipe.model_dump(mode="json", by_alias=True), "previews": spec})


def test_a_strip_shows_the_videos_own_frames_evenly_in_order_of_time():
    maker = StripMaker(PreviewSpec(num_frames=3, width_px=32))
    shades = np.arange(60, dtype=np.uint8) * 4
    frames = np.broadcast_to(shades[:, None, None, None], (60, 48, 64, 3))
    maker.take(frames[30:], np.arange(30, 60) / 30)  # groups may come in any order
    maker.take(frames[:30], np.arange(30) / 30, untrue=np.arange(30) < 10)
    strip = maker.finish()
    assert opened(strip.jpeg).size == (96, 24)
    seen = [int(np.asarray(opened(strip.jpeg))[12, x, 0]) for x in (16, 48, 80)]
    assert np.abs(np.array(seen) - np.array(strip.times_s) * 30 * 4).max() < 4
    assert strip.times_s[0] >= 10 / 30  # damaged frames are not shown
    assert np.diff(strip.times_s).min() > 0.2


def test_a_strip_stays_below_its_bytes_whatever_it_shows():
    maker = StripMaker(PreviewSpec(num_frames=16, width_px=480, max_kib=8))
    rng = np.random.default_rng(0)
    maker.take(rng.integers(0, 256, (16, 300, 500, 3), np.uint8), np.arange(16.0))
    strip = maker.finish()
    assert strip is None or len(strip.jpeg) <= 8 << 10
    maker = StripMaker(PreviewSpec())
    maker.take(np.zeros((3, 4, 4, 3), np.uint8), np.arange(3.0), untrue=np.ones(3, bool))
    assert maker.finish() is None  # nothing that is as it was filmed


def test_extraction_keeps_a_strip_a_video_and_the_same_features(tmp_path, program):
    data = make_videos(tmp_path / "data", [20, 24, 28, 30, 22, 26])
    (data / "broken.mp4").write_bytes(b"no video")
    settings = Settings(data=data, device="cpu", workers=1)
    plain, with_strips = tiny_recipe(program), with_previews(tiny_recipe(program), num_frames=4, width_px=32)
    store, _ = extract_all(with_strips, tmp_path / "s", settings)
    ds = store.dataset("set")
    before, _ = extract_all(plain, tmp_path / "plain", settings)
    ids = {s.dataset("set").feature_info("grid", "tiny").fingerprint_id for s in (before, store)}
    assert len(ids) == 1  # nothing is made of pictures
    for label, found in read_everything(store, with_strips).items():
        assert np.array_equal(found["values"], read_everything(before, plain)[label]["values"])
    for row in range(ds.num_rows):
        preview = ds.preview(row)
        if ds.videos["video_id"][row].as_py() == "broken.mp4":
            assert preview is None
            continue
        assert opened(preview.jpeg).size == (32 * len(preview.times_s), 20)
        assert 0 <= preview.times_s[0] <= preview.times_s[-1] <= ds.videos["duration_s"][row].as_py()
    assert before.dataset("set").preview(1) is None
    assert len(store.backend.list("set/previews")) == ds.num_shards
    assert verify_store(store).problems == ()

    gone = settings.model_copy(update={"data": tmp_path / "nowhere"})
    videos = ds.videos.set_column(ds.videos.schema.get_field_index("uri"), "uri", pa.nulls(ds.num_rows, pa.string()))
    shown = catalogue_thumbnails(videos, gone, 2, kept=ds.preview)
    assert [opened(picture).size for picture in shown(1)] == [(32, 20)] * 2
    assert catalogue_thumbnails(videos, gone, 2)(1) == []

    make_videos(data, [21, 25], prefix="w")  # a half-full shard grows: the rows that were there keep theirs
    first = ds.preview(1)
    store, _ = extract_all(with_strips, tmp_path / "s", settings)
    again = store.dataset("set")
    assert again.preview(1) == first
    assert again.preview(again.num_rows - 1) is not None
    assert len(store.backend.list("set/previews")) == again.num_shards
    assert ds.preview(1) == first  # a handle from before reads on
