"""Weights by name: fetched from a server that cuts, lies or stalls; locked; named by a recipe."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from extract.backbones import describe_backbone, fetching
from extract.backbones.published import PUBLISHED, Published
from extract.backbones.weights_lock import Locked, lock, locked, read_lock
from flows.cli import run
from pipeline.errors import NotFoundError, StorageError, WeightsError
from pipeline.fingerprint import hash_file
from pipeline.recipe import parse_recipe
from pipeline.settings import Settings


def checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model_state": {"w": torch.arange(200_000, dtype=torch.float32)}}, buffer)
    return buffer.getvalue()


DATA = checkpoint()


class Server(ThreadingHTTPServer):
    """Answers with `content`; each request takes the next of `ways`: whole, cut, stall, broken."""

    content = DATA
    ways: list[str]
    ranges: list[str]
    resumes = True


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        way = self.server.ways.pop(0) if self.server.ways else "whole"
        asked = self.headers.get("Range", "")
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.resumes else 0
        if way in ("404", "503"):
            self.send_error(int(way))
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if way == "whole" else body[: len(body) // 2])
        if way == "stall":
            self.wfile.flush()
            threading.Event().wait(1.0)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("SCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SCALE_WEIGHTS_LOCK", raising=False)
    monkeypatch.setattr(fetching.time, "sleep", lambda seconds: None)
    made = Server(("127.0.0.1", 0), Handler)
    made.ways, made.ranges = [], []
    threading.Thread(target=made.serve_forever, daemon=True).start()
    monkeypatch.setenv("SCALE_WEIGHTS_MIRROR", f"http://127.0.0.1:{made.server_port}")
    yield made
    made.shutdown()
    made.server_close()


ONE = Published("tiny", "https://nowhere.invalid/zoo/tiny.pyth", "kind: pytorchvideo, model: slow_r50", "a test")


def test_a_file_is_fetched_once_and_its_hash_locked(server: Server) -> None:
    seen: list[tuple[int, int]] = []
    entry = fetching.fetch(ONE, on_bytes=lambda done, total: seen.append((done, total)))
    assert entry.path.read_bytes() == DATA
    assert read_lock() == {"tiny": entry}
    assert seen[-1] == (len(DATA), len(DATA))
    assert fetching.fetch(ONE) == entry
    assert len(server.ranges) == 1


@pytest.mark.parametrize("way", ["cut", "stall", "503"])
def test_what_breaks_off_is_gone_on_with(server: Server, way: str) -> None:
    server.ways = [way, way]
    assert fetching.fetch(ONE, timeout_s=0.5).path.read_bytes() == DATA
    assert len(server.ranges) == 3
    if way != "503":
        assert server.ranges[1] == f"bytes={len(DATA) // 2}-"


def test_a_server_that_cannot_go_on_begins_again(server: Server) -> None:
    server.ways, server.resumes = ["cut"], False
    assert fetching.fetch(ONE).path.read_bytes() == DATA


def test_a_server_that_never_ends_is_an_error_and_what_came_is_kept(server: Server) -> None:
    server.ways = ["cut"] * fetching.MAX_TRIES
    with pytest.raises(StorageError, match="run the same again"):
        fetching.fetch(ONE)
    assert fetching.fetch(ONE).path.read_bytes() == DATA


def test_other_bytes_and_no_weights_are_refused(server: Server) -> None:
    server.content = b"<html>please log in</html>"
    with pytest.raises(WeightsError, match="weights tiny from"):
        fetching.fetch(ONE)
    server.content = DATA
    lock("tiny", Locked("tiny.pyth", "0" * 64, 1, ONE.address))
    with pytest.raises(WeightsError, match="as locked"):
        fetching.fetch(ONE)
    server.ways = ["404"]
    with pytest.raises(NotFoundError, match="HTTP 404"):
        fetching.fetch(ONE)
    assert not [p for p in fetching.weights_folder().iterdir() if p.suffix == ".pyth"]


def test_a_recipe_names_locked_weights(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {
        "name": "r", "dataset": {"name": "d", "videos": "*.mp4"},
        "crops": {"c": {"policy": "grid", "temporal": 1, "spatial": 1, "num_frames": 8, "stride": 1}},
        "backbones": {"b": {"kind": "pytorchvideo", "model": "slow_r50", "weights": {"name": "mine"}}},
    }  # fmt: skip
    spec = parse_recipe(content).backbones["b"]
    with pytest.raises(NotFoundError, match="scale weights fetch mine"):
        describe_backbone(spec, Settings())
    file = tmp_path / "mine.pyth"
    file.write_bytes(DATA)
    assert run(["weights", "add", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "weights: {name: mine}" in printed
    assert hash_file(file) in printed
    by_name = describe_backbone(spec, Settings())
    content["backbones"]["b"]["weights"] = {"path": str(file), "sha256": hash_file(file)}  # type: ignore[index]
    assert describe_backbone(parse_recipe(content).backbones["b"], Settings()) == by_name
    assert locked("mine").path == file
    file.write_bytes(DATA[:-1])
    with pytest.raises(WeightsError, match="expected sha256"):
        describe_backbone(spec, Settings())


def test_the_command_fetches_and_lists(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["weights", "fetch", "slow_r50", "--quiet"]) == 0
    assert "weights: {name: slow_r50}" in capsys.readouterr().out
    assert run(["weights", "list"]) == 0
    assert locked("slow_r50").sha256[:12] in capsys.readouterr().out
    assert run(["weights", "fetch", "nothing"]) == 3


def test_addresses_of_the_zoo_are_those_of_its_hub_modules() -> None:
    spec = find_spec("pytorchvideo")
    assert spec is not None
    assert spec.origin is not None
    source = "".join(p.read_text() for p in (Path(spec.origin).parent / "models" / "hub").glob("*.py"))
    for one in PUBLISHED.values():
        if one.source == "pytorchvideo zoo":
            file = one.address.rpartition("/")[2]
            assert re.search(rf'"{one.name}": f"{{root_dir}}/(kinetics/)?{re.escape(file)}"', source), one.name
