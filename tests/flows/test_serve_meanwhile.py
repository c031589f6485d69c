"""`scale serve` beside writers, repairs and withdrawals, and beside clients that mean no good: right, or refused."""

from __future__ import annotations

import io
import json
import shutil
import socket
import threading
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from flows.serve.app import build_app
from flows.serve.limits import Limits
from flows.serve.stores import open_stores, present_marks
from pipeline import FeatureStore
from pipeline.sets.compaction import compact_ledger
from pipeline.settings import Settings
from pipeline.store.previews import Preview
from pipeline.verify.verify_store import verify_store
from tests.flows.serve_world import listening
from tests.support.services import wait_until
from tests.support.stores import CROPS, FEATURE_SET, fill, make_store, make_values, video_table

REFUSED = {404, 409, 500, 503}
"""Statuses of an honest refusal; 500 only for stores that are damaged, in words."""


def strip(colour: tuple[int, int, int], count: int = 2) -> Preview:
    buffer = io.BytesIO()
    Image.new("RGB", (32 * count, 24), colour).save(buffer, "JPEG")
    return Preview(tuple(k / count for k in range(count)), buffer.getvalue())


def served(folder: Path, **options) -> object:
    settings = Settings(device="cpu", workers=1, cache=folder / "cache")
    return build_app(open_stores([f"s={folder / 'store'}"], refresh_s=0.0), settings, **options)


def video_id(row: int) -> str:
    return f"videos/{row:06d}.mp4"


def is_gone(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=60):
            return False
    except urllib.error.HTTPError as error:
        return error.code == 404


class Asker(threading.Thread):
    """Asks until told to stop, holds every answer to what is true, and keeps what was wrong."""

    def __init__(self, url: str, gone: set[int]) -> None:
        super().__init__(daemon=True)
        self.url, self.gone = url, gone
        self.ended = threading.Event()
        self.rounds = 0
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.ended.is_set():
            row = self.rounds % 12
            was_gone = row in self.gone
            found = self.json(f"/api/v1/s/toy/row?video_id={quote(video_id(row))}")
            if found is not None and (found["row"] != row or was_gone):
                self.wrong.append(f"row {row}: {found}")
            data = self.ask(f"/api/v1/s/toy/features/{CROPS}/{FEATURE_SET}?rows={row}")
            if data is not None:
                block = np.load(io.BytesIO(data))
                expected = make_values(np.array([row]), 4, 16).astype(np.float16)
                if block["valid"].any() and not np.array_equal(block["values"], expected):
                    self.wrong.append(f"features of row {row}")
            for view in ("", "/videos", f"/video/{row}", "/failures", "/map", f"/thumbnail/{row}.jpg"):
                self.ask(f"/s/toy{view}")
            self.rounds += 1

    def json(self, path: str) -> dict | None:
        data = self.ask(path)
        return None if data is None else json.loads(data)

    def ask(self, path: str) -> bytes | None:
        try:
            with urllib.request.urlopen(self.url + path, timeout=60) as answer:
                self.statuses[answer.status] += 1
                return answer.read()
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            self.statuses[error.code] += 1
            if error.code not in REFUSED or "Traceback" in text or "a fault in scale serve" in text:
                self.wrong.append(f"{path}: {error.code} {text[:300]}")
            return None

    def see(self, rounds: int = 2) -> None:
        """Wait until everything was asked again, from now on."""
        until = self.rounds + rounds
        wait_until(lambda: self.rounds >= until, timeout_s=120, what="answers")


@pytest.mark.slow
def test_a_store_that_is_written_compacted_repaired_and_erased_meanwhile_is_answered_rightly(tmp_path):
    store = make_store(tmp_path / "store", 12, shard_rows=4)
    store.dataset("toy").save_previews({row: strip((row, 9, 9)) for row in range(12)})
    ledger, gone = f"toy/crops/{CROPS}/ledger/{FEATURE_SET}", set()
    with listening(served(tmp_path)) as url:
        asker = Asker(url, gone)
        asker.start()
        asker.see()
        for k in range(3):
            store.dataset("toy").append_videos(video_table(3, first=12 + 3 * k))
            fill(store)
            asker.see()
        compact_ledger(store.backend, ledger, min_loose=1)
        asker.see()
        values = tmp_path / "store/toy/crops" / CROPS / "features" / FEATURE_SET / "values"
        shard = next(values.glob("c.1.*"))
        bad = bytearray(shard.read_bytes())
        bad[40] ^= 255
        shard.with_suffix(".new").write_bytes(bad)
        shard.with_suffix(".new").replace(shard)  # damage, as a disk makes it: the file is another one now
        asker.see()
        verify_store(FeatureStore.open(store.url, "a"), repair=True)
        fill(store)
        asker.see()
        store.dataset("toy").change_labels({2: {"label": "new"}})
        asker.see()
        store.dataset("toy").remove_videos([5], erase=True)
        asked = f"{url}/api/v1/s/toy/row?video_id={quote(video_id(5))}"
        # a moment from before may answer until then
        wait_until(lambda: is_gone(asked), timeout_s=60, what="the removal")
        asker.see()
        gone.add(5)
        asker.see(14)
        store.dataset("toy").erase_removed()
        asker.see(14)
        shutil.rmtree(tmp_path / "store/toy/previews")
        asker.see()
        asker.ended.set()
        asker.join(timeout=60)
    assert asker.wrong == []
    assert asker.statuses[200] > 10 * asker.statuses[500]
    assert verify_store(store).is_clean


def test_pictures_come_from_the_store_where_the_videos_are_not(tmp_path):
    store = make_store(tmp_path / "store", 4, shard_rows=4)
    of_two = strip((0, 0, 9)).jpeg
    shades = {0: strip((250, 0, 0)), 1: Preview((0.0,), b"no picture"), 2: Preview((0.0, 1.0, 2.0), of_two)}
    store.dataset("toy").save_previews(shades)
    with TestClient(served(tmp_path), base_url="http://localhost") as client:
        picture = client.get("/s/toy/thumbnail/0.jpg")
        assert picture.headers["content-type"] == "image/jpeg"
        seen = Image.open(io.BytesIO(picture.content))
        assert seen.size == (32, 24)
        assert seen.getpixel((16, 12))[0] > 200
        assert client.get("/s/toy/thumbnail/0.jpg?w=960").status_code == 200
        for row in (1, 2, 3):  # bytes that are no strip of so many frames, and none at all
            assert client.get(f"/s/toy/thumbnail/{row}.jpg").status_code == 404
        page = client.get("/s/toy/video/0").text
        assert "small pictures that extraction kept" in page
        assert "data-box-view" in page
        store.dataset("toy").remove_videos([0])
        wait_until(lambda: client.get("/s/toy/thumbnail/0.jpg").status_code == 404, timeout_s=30, what="the removal")


def test_every_kind_of_commit_leaves_other_marks(tmp_path):
    """What the server looks at before it reads a store again: no commit may go unseen."""
    store = make_store(tmp_path / "store", 12, shard_rows=4)
    seen = [present_marks(store, "toy")]

    def is_new() -> bool:
        seen.append(present_marks(store, "toy"))
        return seen[-1] not in seen[:-1]

    assert present_marks(store, "toy") == seen[0]
    ds = store.dataset("toy")
    ds.append_videos(video_table(2, first=12))
    assert is_new()
    fill(store)
    assert is_new()
    ds.change_labels({1: {"label": "x"}})
    assert is_new()
    for version in range(2):  # of equal size, and of equal content
        ds.save_artifact("reports", "r", {"a.json": b"{}"}, {"version": version})
        assert is_new()
    ds.save_artifact("maps", "m", {"a.json": b"{}"}, {})
    assert is_new()
    store.dataset("toy").save_previews({1: strip((1, 2, 3))})
    assert is_new()
    compact_ledger(store.backend, f"toy/crops/{CROPS}/ledger/{FEATURE_SET}", min_loose=1)
    assert is_new()
    ds.remove_videos([3], erase=True)
    assert is_new()
    ds.erase_removed()
    assert is_new()


def test_slow_and_oversized_clients_keep_nobody_waiting(tmp_path):
    make_store(tmp_path / "store", 4, shard_rows=4)
    limits = Limits(upload_s=0.5, max_upload_bytes=1 << 20)
    with listening(served(tmp_path, limits=limits)) as url:
        place = urlsplit(url)
        idle = [socket.create_connection((place.hostname, place.port)) for _ in range(60)]
        for one in idle:
            one.sendall(b"GET /s/toy HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        sending = socket.create_connection((place.hostname, place.port))
        sending.sendall(
            b"POST /api/v1/s/toy/search/video HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\nfew bytes"
        )
        assert urllib.request.urlopen(f"{url}/s/toy", timeout=30).status == 200
        sending.settimeout(30)
        assert b" 503 " in sending.recv(200)  # the body did not arrive in time
        huge = socket.create_connection((place.hostname, place.port))
        huge.settimeout(30)
        huge.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Huge: " + b"a" * 80_000)
        assert huge.recv(100).startswith(b"HTTP/1.1 4")
        for one in (*idle, sending, huge):
            one.close()
        assert urllib.request.urlopen(f"{url}/healthz", timeout=30).read() == b"ok\n"
