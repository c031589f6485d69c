"""Videos from elsewhere brought at hand: what is fetched, from whom, how it is checked, and how little is kept."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from extract.places.cache import FileCache, Lease
from extract.places.elsewhere import Elsewhere, place_at, place_of_path, place_of_uri
from extract.places.files import Files
from extract.places.hosts import Hosts, is_public
from extract.places.http_file import HttpFile
from pipeline.errors import InvalidInputError, VideoError
from pipeline.settings import Settings
from tests.support.places import DATA, NAMED, sha256
from tests.support.places import files as files
from tests.support.places import server as server
from tests.support.places import web as web
from tests.support.web import WebServer

# ---- addresses


def test_addresses_and_members_lead_where_they_say(tmp_path: Path) -> None:
    assert place_at("s3://b/x/clips.tar/in/a%20b.mp4").member == "in/a b.mp4"
    assert place_at("s3://b/x/clips.tar/in/a%20b.mp4").holder == "s3://b/x/clips.tar"
    assert place_at("https://h/a.mp4#t=3") == Elsewhere("https://h/a.mp4")
    odd = tmp_path / "ta#r%" / "s h.tar"
    odd.parent.mkdir()
    odd.write_bytes(b"x")
    place = place_of_path(odd / "k ey#1.mp4")
    assert isinstance(place, Elsewhere)
    assert (place.local_holder, place.member, place.suffix) == (odd, "k ey#1.mp4", ".mp4")
    assert place_of_uri(place.address) == place
    assert place_of_uri((tmp_path / "a#b.mp4").as_uri()) == tmp_path / "a#b.mp4"


# ---- who may be asked


@pytest.mark.parametrize(
    ("ip", "expected"),
    [("93.184.215.14", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False), ("0.0.0.0", False),
     ("169.254.169.254", False), ("::1", False), ("fe80::1%eth0", False), ("::ffff:192.168.0.1", False),
     ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False), ("224.0.0.1", False), ("100.64.0.1", False)],
)  # fmt: skip
def test_which_addresses_are_public(ip: str, expected: bool) -> None:
    assert is_public(ip) is expected


def test_hosts_and_buckets_that_are_named() -> None:
    hosts = Hosts.parse("media.example.org, *.example.net,s3://clips")
    for address in ("https://media.example.org/a", "http://x.example.net:81/a", "s3://clips/a.mp4"):
        hosts.check(address)
    for address in ("https://example.net/a", "https://evil.org/a", "s3://other/a", "gs://clips/a"):
        with pytest.raises(InvalidInputError, match=r"SCALE_HOSTS: media\.example\.org"):
            hosts.check(address)
    for address in ("ftp://h/a", "https://u:p@media.example.org/a", "https:///a", "http://h:x/a"):
        with pytest.raises(InvalidInputError):
            hosts.check(address)
    Hosts.parse(None).check("https://anybody.example/a")
    Hosts.parse(None).check("s3://any/a")
    with pytest.raises(InvalidInputError, match="SCALE_HOSTS: none"):
        Hosts.parse("").check("https://anybody.example/a")


@pytest.mark.parametrize("named", ["*", "127.*"])
def test_private_addresses_need_their_name(web: WebServer, named: str) -> None:
    with pytest.raises(VideoError, match=r"private address 127\.0\.0\.1; name 127\.0\.0\.1 in SCALE_HOSTS") as refused:
        HttpFile(f"{web.address}/a.mp4", Hosts((named,))).size()
    assert refused.value.status == "interrupted"
    assert not web.asked


def test_runs_that_a_server_starts_may_fetch_from_nowhere_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.parameters import Where

    assert Where().settings().hosts == ""
    monkeypatch.setenv("SCALE_HOSTS", "media.example.org")
    assert Where().settings().hosts == "media.example.org"
    assert Settings().hosts == "media.example.org"


# ---- fetching


def test_a_file_is_fetched_once_and_must_be_that_of_the_catalogue(web: WebServer, files: Files) -> None:
    place = Elsewhere(f"{web.address}/a.mp4", len(DATA), sha256(DATA))
    with files.lend(place) as lease:
        assert lease.path.read_bytes() == DATA
        assert lease.path.suffix == ".mp4"
    num_asked = len(web.asked)
    with files.lend(place) as lease:
        assert lease.path.read_bytes() == DATA
    assert len(web.asked) == num_asked
    web.files["/a.mp4"] = DATA[:-1] + b"?"
    other = Elsewhere(place.address, len(DATA), sha256(b"other"))
    with pytest.raises(VideoError, match=r"changed since it was catalogued: expected sha256"):
        files.lend(other)
    with pytest.raises(VideoError, match=r"changed since it was catalogued: expected 12 bytes, found 300000"):
        files.lend(Elsewhere(place.address, 12))


def test_what_breaks_off_is_gone_on_with(web: WebServer, files: Files) -> None:
    web.cut_after["/a.mp4"] = 70_000
    web.failures["/a.mp4"] = [503]
    with files.lend(Elsewhere(f"{web.address}/a.mp4")) as lease:
        assert lease.path.read_bytes() == DATA
    starts = [span for _, span in web.asked]
    assert f"bytes=280000-{len(DATA) - 1}" in starts, "what had come was not asked for again"


def test_a_file_that_changes_while_it_comes_is_not_put_together(web: WebServer, files: Files) -> None:
    source = HttpFile(f"{web.address}/a.mp4", NAMED)
    web.cut_after["/a.mp4"] = 70_000
    stream = source.stream()
    next(stream)
    web.files["/a.mp4"] = os.urandom(300_001)
    with pytest.raises(VideoError, match="changed while it was read"):
        list(stream)


@pytest.mark.parametrize("status", [500, 403])
def test_servers_that_fail_leave_nothing(web: WebServer, files: Files, status: int, tmp_path: Path) -> None:
    web.failures["/a.mp4"] = [status] * 20
    with pytest.raises(VideoError, match=f"HTTP {status}") as failed:
        files.lend(Elsewhere(f"{web.address}/a.mp4"))
    assert failed.value.status == "interrupted"
    assert not [p for p in (tmp_path / "cache").iterdir() if not p.name.startswith(".")]


def test_what_is_not_there_is_missing(web: WebServer, files: Files) -> None:
    with pytest.raises(VideoError, match="HTTP 404") as failed:
        files.lend(Elsewhere(f"{web.address}/b.mp4"))
    assert failed.value.status == "missing"


def test_a_server_that_says_nothing_more_is_given_up(web: WebServer) -> None:
    web.trickle["/a.mp4"] = 1000
    source = HttpFile(f"{web.address}/a.mp4", NAMED, timeout_s=0.1, max_tries=1)
    with pytest.raises(VideoError, match="after 1000 of 300000 bytes") as failed:
        list(source.stream())
    assert failed.value.status == "interrupted"


def test_a_fetch_that_waits_ends_when_it_is_told_to(web: WebServer, files: Files) -> None:
    web.trickle["/a.mp4"] = 1000
    failures: list[VideoError] = []

    def fetch() -> None:
        try:
            files.lend(Elsewhere(f"{web.address}/a.mp4"))
        except VideoError as error:
            failures.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    while len(web.asked) < 2:  # its size, then its bytes
        assert thread.is_alive()
    files.stop()
    thread.join(timeout=10)
    assert [failure.status for failure in failures] == ["interrupted"]
    del web.trickle["/a.mp4"]
    files.lend(Elsewhere(f"{web.address}/a.mp4")).close()


def test_redirections_lead_to_allowed_hosts_only(web: WebServer) -> None:
    web.moved |= {
        "/here": "/a.mp4",
        "/away": "http://localhost.example/a.mp4",
        "/in": web.address.replace("127.0.0.1", "localhost") + "/a.mp4",
        "/round": "/round",
        "/file": "file:///etc/passwd",
    }
    assert HttpFile(f"{web.address}/here", NAMED).read_range(5, 4) == DATA[5:9]
    refusals = {"/away": "localhost.example", "/in": "localhost", "/round": "more than 5", "/file": "file"}
    for path, why in refusals.items():
        with pytest.raises(VideoError, match=why):
            HttpFile(f"{web.address}{path}", NAMED).size()
    with pytest.raises(VideoError, match="private address"):
        HttpFile(f"{web.address}/in", Hosts(("127.0.0.1", "*"))).size()


# ---- the cache


def test_the_cache_stays_below_its_size_and_keeps_what_was_used_last(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 100)

    def put(name: str, size: int) -> None:
        def fill(file: io.BufferedWriter) -> str:
            file.write(b"x" * size)
            return name

        cache.add(size, fill).close()

    for k, name in enumerate(("a", "b", "c")):
        put(name, 30)
        os.utime(tmp_path / name, (k, k))
    cache.find("a").close()
    held = cache.find("b")
    put("d", 60)
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith(".")} == {"b", "d"}, "b is in use, a was older"
    held.close()
    put("e", 90)
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith(".")} == {"e"}
    with pytest.raises(VideoError, match="SCALE_CACHE_BYTES"):
        put("f", 101)
    with pytest.raises(VideoError, match="1 bytes came instead of 5"):
        cache.add(5, lambda file: str(file.write(b"x")))
    (tmp_path / "dead.partial").write_bytes(b"x" * 80)
    put("g", 15)
    assert not (tmp_path / "dead.partial").exists(), "of a killed process"


def test_a_file_that_comes_twice_stays_for_whoever_holds_the_first(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 100)

    def add(name: str, size: int) -> Lease:
        return cache.add(size, lambda file: (file.write(b"x" * size), name)[1])

    first = add("same", 40)
    add("same", 40).close()
    os.utime(first.path, (0, 0))  # the first to go, were it not in use
    add("later", 30).close()
    add("new", 50).close()
    assert first.path.read_bytes() == b"x" * 40
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"same", "new"}
    first.close()


FETCHER = """
import sys
from pathlib import Path
from extract.places.cache import FileCache
cache = FileCache(Path(sys.argv[1]), 1000)
for k in range(150):
    number = (k * int(sys.argv[2])) % 13
    content = bytes([number]) * 150
    def fill(file):
        file.write(content)
        return f"f{number}"
    lease = cache.find(f"f{number}") or cache.add(150, fill)
    with lease:
        assert lease.path.read_bytes() == content
        with cache._locked(".lock"):
            used = sum(p.stat().st_size for p in lease.path.parent.iterdir() if not p.name.startswith("."))
        assert used <= 1000, used
"""


def test_processes_share_a_cache(tmp_path: Path) -> None:
    run = [
        subprocess.Popen([sys.executable, "-c", FETCHER, str(tmp_path), str(n)], stderr=subprocess.PIPE, text=True)
        for n in (1, 5, 7)
    ]
    for process in run:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def test_threads_fetch_the_same_file_once(web: WebServer, files: Files) -> None:
    place = Elsewhere(f"{web.address}/a.mp4", len(DATA), sha256(DATA))
    threads = [threading.Thread(target=lambda: files.lend(place).close()) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(span != "bytes=0-0" for _, span in web.asked) == 1


# ---- shards
