"""A web server on loopback whose answers can be cut, slow, moved or wrong."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class WebServer:
    """Files by path, and how each is answered."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}
        self.cut_after: dict[str, int] = {}
        """Path -> bytes after which a connection breaks off."""
        self.failures: dict[str, list[int]] = {}
        """Path -> statuses of the next answers."""
        self.trickle: dict[str, int] = {}
        """Path -> bytes after which nothing more comes, though the connection stays."""
        self.without_ranges: set[str] = set()
        self.asked: list[tuple[str, str | None]] = []
        """Path and range of every request."""
        self.stopping = threading.Event()
        self.address = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, span = request.path, request.headers.get("Range")
        self.asked.append((path, span))
        if self.failures.get(path):
            request.send_error(self.failures[path].pop(0))
            return
        if path in self.moved:
            request.send_response(302)
            request.send_header("Location", self.moved[path])
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if path not in self.files:
            request.send_error(404)
            return
        data = self.files[path]
        total, start, stop = len(data), 0, len(data)
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", span or "")
        if found and path not in self.without_ranges:
            start, stop = int(found[1]), min(int(found[2]) + 1, total)
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{stop - 1}/{total}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(stop - start))
        request.send_header("ETag", f'"{hash(data)}"')
        request.end_headers()
        limit = min((d[path] for d in (self.cut_after, self.trickle) if path in d), default=total)
        request.wfile.write(data[start : min(stop, start + limit)])
        if stop - start > limit:
            if path in self.trickle:
                self.stopping.wait(20)
            request.close_connection = True


@contextmanager
def web_server() -> Iterator[WebServer]:
    """Serve on a free loopback port."""
    web = WebServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            web.answer(self)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are what is tested
    web.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
