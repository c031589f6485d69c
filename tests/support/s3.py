"""A real S3 API on loopback (moto's server in its own process), and a stand-in that gets conditional puts wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request

import pytest

START_LIMIT_S = 60
BUCKET = "features"
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
_PORT = re.compile(rb"http://127\.0\.0\.1:(\d+)")
_OTHER_VARIABLES = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_WEB_IDENTITY_TOKEN_FILE")


class S3Server:
    """Address of a running server."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def create_bucket(self, name: str = BUCKET) -> None:
        urllib.request.urlopen(Request(f"{self.endpoint}/{name}", method="PUT")).read()

    def environment(self) -> dict[str, str]:
        """Variables for a subprocess that uses this server."""
        return {**_CREDENTIALS, "AWS_ENDPOINT_URL": self.endpoint, "no_proxy": "127.0.0.1"}

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Point this process's clients at the server."""
        for name in _OTHER_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in self.environment().items():
            monkeypatch.setenv(name, value)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Start moto's S3 server on a free loopback port; stop it at the end."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    # Port 0: the server binds a free port and says which; no race between finding one and using it.
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    )
    try:
        server = S3Server(f"http://127.0.0.1:{_read_port(process)}")
        server.create_bucket()
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)


def _read_port(process: subprocess.Popen[bytes]) -> int:
    found: list[int] = []
    ready = threading.Event()
    lines: list[bytes] = []

    def drain() -> None:  # to the end, or the server would block on a full pipe
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            match = _PORT.search(line)
            if match and not found:
                found.append(int(match[1]))
                ready.set()
        ready.set()

    threading.Thread(target=drain, daemon=True).start()
    if not ready.wait(START_LIMIT_S) or not found:
        raise RuntimeError(f"moto's server did not start: {b''.join(lines).decode()}")
    return found[0]


class _Stub(BaseHTTPRequestHandler):
    """The smallest S3 that the client talks to: whole-object GET, HEAD, PUT and DELETE in a dict."""

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Sat, 21 Nov 2026 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server: StubServer = self.server  # type: ignore[assignment]
        server.requests.append(("PUT", self.path))
        with server.lock:
            status = server.status_of_put(self.path, self.headers.get("If-None-Match"))
            if status in (200, 500):  # 500: done, but the answer is lost
                server.objects[self.path] = (
                    body,
                    {k: v for k, v in self.headers.items() if k.lower().startswith("x-amz-meta-")},
                )
        self._answer(status, headers={"ETag": '"x"'})

    def do_GET(self) -> None:
        server: StubServer = self.server  # type: ignore[assignment]
        server.requests.append((self.command, self.path))
        status = server.status_of_get()
        if status != 200:
            self._answer(status)
        elif self.path in server.objects:
            body, meta = server.objects[self.path]
            self._answer(200, body, {"ETag": '"x"', **meta})
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    do_HEAD = do_GET

    def do_POST(self) -> None:  # DeleteObjects, the client's only way to delete
        server: StubServer = self.server  # type: ignore[assignment]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if server.fault in ("refuses", "down"):
            self._answer(server.status_of_get())
            return
        bucket = self.path.partition("?")[0].rstrip("/")
        keys = re.findall(r"<Key>(.*?)</Key>", body)
        for key in keys:
            server.objects.pop(f"{bucket}/{key}", None)
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())


class StubServer(ThreadingHTTPServer):
    """An S3-like service with one chosen fault.

    Parameters
    ----------
    fault : str
        ``ignores-condition``: every put succeeds. ``no-condition``: answers 501. ``refuses``: 403 to everything.
        ``loses-answers``: the first put of each key is done but answered with 500.
        ``flaky``: every second read fails with 503. ``down``: always 503. ``none``: honest.
    """

    def __init__(self, fault: str) -> None:
        super().__init__(("127.0.0.1", 0), _Stub)
        self.fault = fault
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()

    def status_of_put(self, path: str, if_none_match: str | None) -> int:
        if self.fault in ("refuses", "down"):
            return 403 if self.fault == "refuses" else 503
        if if_none_match is not None and self.fault == "no-condition":
            return 501
        if if_none_match is not None and self.fault != "ignores-condition" and path in self.objects:
            return 412
        if self.fault == "loses-answers" and path not in self.objects:
            return 500
        return 200

    def status_of_get(self) -> int:
        if self.fault in ("refuses", "down"):
            return 403 if self.fault == "refuses" else 503
        return 503 if self.fault == "flaky" and len(self.requests) % 2 else 200


@contextmanager
def stub_server(fault: str) -> Iterator[tuple[S3Server, StubServer]]:
    """Run a :class:`StubServer` in a thread of this process."""
    server = StubServer(fault)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield S3Server(f"http://127.0.0.1:{server.server_address[1]}"), server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
