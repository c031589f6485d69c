"""A file at a web address: read whole or in ranges, from allowed hosts only, patiently but not for ever."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from extract.places.hosts import Hosts, connect
from pipeline.errors import InvalidInputError, VideoError
from pipeline.status import VideoStatus

TIMEOUT_S = 30.0
"""Without a byte for so long a connection counts as broken."""
MIN_BYTES_PER_S = 1024
SLOW_AFTER_S = 60.0
"""A download that is slower than that over such a time counts as broken, too."""
MAX_TRIES = 4
MAX_REDIRECTS = 5
BLOCK_BYTES = 1 << 20
_KEPT = "/%:@!$&'()*+,;=?~"
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Guarded(HTTPConnection):
    """A connection to an address that was looked at first."""

    hosts: Hosts

    def connect(self) -> None:
        self.sock = connect(self.host, self.port, float(self.timeout or TIMEOUT_S), self.hosts)


class _GuardedTls(HTTPSConnection, _Guarded):
    """The same, encrypted; the server's name is checked against its certificate."""


class HttpFile:
    """One file at a web address. Nothing is asked before its size or its bytes are. Not for several threads at once.

    Parameters
    ----------
    address : str
    hosts : Hosts
        Redirections to others are refused.
    timeout_s, slow_after_s : float
    max_tries : int
        How often in a row nothing may come before it is given up.

    Raises
    ------
    VideoError
        From every method: `missing` where the server says so, `interrupted` (to be tried by the next run) where it
        does not answer, breaks off again and again, or refuses.
    """

    def __init__(
        self,
        address: str,
        hosts: Hosts,
        *,
        timeout_s: float = TIMEOUT_S,
        slow_after_s: float = SLOW_AFTER_S,
        max_tries: int = MAX_TRIES,
    ) -> None:
        hosts.check(address)
        self._asked = address
        self._shown = address.partition("?")[0]  # what follows may be a signature
        self._hosts = hosts
        self._timeout_s, self._slow_after_s, self._max_tries = timeout_s, slow_after_s, max_tries
        self._connection: HTTPConnection | None = None
        self._connected_to: tuple[str, str] | None = None
        self.num_bytes: int | None = None
        """Known after the first answer."""
        self._tag: str | None = None
        self._is_stopped = False

    def size(self) -> int:
        """Return the number of bytes."""
        if self.num_bytes is None:
            self._tried(self._ask_size)
        if self.num_bytes is None:
            raise self._failure("its server does not say how long it is")
        return self.num_bytes

    def read_range(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer at the end."""
        if length <= 0:
            return b""
        span = f"bytes={start}-{start + length - 1}"
        return self._tried(lambda: self._get_range(span, length))

    def stream(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start` to `stop`; goes on where the connection broke off, if the file is the same."""
        at, problem, tries = start, "", 0
        total = self.size() if stop is None else stop
        while at < total:
            before = at
            try:
                for block in self._blocks(at, total):
                    at += len(block)
                    yield block
                if at >= total:
                    return
                problem = "it broke off"
            except (OSError, HTTPException) as error:
                problem = str(error) or type(error).__name__
            self.close()
            tries = 1 if at > before else tries + 1
            if tries >= self._max_tries or self._is_stopped:
                raise self._failure(f"{problem} after {at - start} of {total - start} bytes")
            time.sleep(min(0.05 * 4**tries, 5.0))

    def _blocks(self, start: int, stop: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={start}-{stop - 1}"} if start or stop != self.num_bytes else {}
        if start and self._tag:
            headers["If-Range"] = self._tag
        answer = self._ask(headers)
        if headers and answer.status != 206:
            raise self._failure("its server does not send parts of files, or the file changed meanwhile")
        left = stop - start
        begun, since = time.monotonic(), 0
        while left > 0 and (block := answer.read1(min(BLOCK_BYTES, left))):
            left -= len(block)
            since += len(block)
            yield block
            if (now := time.monotonic()) - begun > self._slow_after_s:
                if since < MIN_BYTES_PER_S * (now - begun):
                    raise TimeoutError(f"slower than {MIN_BYTES_PER_S} bytes a second")
                begun, since = now, 0
        if left or not answer.isclosed():
            self.close()

    def _ask_size(self) -> None:
        answer = self._ask({"Range": "bytes=0-0"})  # addresses that are signed for reading refuse HEAD
        if answer.status == 206:
            answer.read()
        else:
            self.close()

    def _get_range(self, span: str, length: int) -> bytes:
        answer = self._ask({"Range": span})
        if answer.status != 206:
            self.close()
            raise self._failure("its server does not send parts of files; a shard there cannot be read")
        return answer.read(length + 1)[:length]

    def _tried(self, work: Any) -> Any:
        problem = ""
        for attempt in range(self._max_tries):
            if self._is_stopped:
                break
            if attempt:
                time.sleep(min(0.05 * 4**attempt, 5.0))
            try:
                return work()
            except (OSError, HTTPException) as error:
                self.close()
                problem = str(error) or type(error).__name__
        raise self._failure(f"{problem} in {self._max_tries} tries")

    def _ask(self, headers: dict[str, str]) -> HTTPResponse:
        """Return the answer to a request; redirections are followed as far as the hosts are allowed."""
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._request(headers)
            if answer.status not in (301, 302, 303, 307, 308):
                return self._checked(answer)
            target = urljoin(self._asked, answer.headers.get("Location", ""))
            self.close()
            if urlsplit(target).scheme not in ("https", urlsplit(self._asked).scheme):
                raise self._failure("its server leads from https:// to an address without encryption")
            try:
                self._hosts.check(target)
            except InvalidInputError as error:
                raise self._failure(f"it leads elsewhere: {error}") from None
            self._asked = target
        raise self._failure(f"more than {MAX_REDIRECTS} redirections")

    def _checked(self, answer: HTTPResponse) -> HTTPResponse:
        status = answer.status
        if status in (404, 410):
            self.close()
            raise VideoError(f"missing: HTTP {status} at {self._shown}", VideoStatus.MISSING)
        if status in _PASSING:
            self.close()
            raise ConnectionError(f"HTTP {status}")
        if status not in (200, 206) or answer.headers.get("Content-Encoding", "identity") != "identity":
            self.close()
            raise self._failure(f"HTTP {status} {answer.reason}")
        total = answer.headers.get("Content-Length", "")
        if status == 206:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if total.isdigit():
            if self.num_bytes is not None and self.num_bytes != int(total):
                self.close()
                raise self._failure(f"it changed while it was read: {self.num_bytes} bytes, then {total}")
            self.num_bytes = int(total)
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if tag and not tag.startswith("W/"):
            self._tag = self._tag or tag
        return answer

    def _request(self, headers: dict[str, str]) -> HTTPResponse:
        parts = urlsplit(self._asked)
        target = quote(parts.path or "/", safe=_KEPT) + (f"?{quote(parts.query, safe=_KEPT)}" if parts.query else "")
        lines = {"User-Agent": "scale-pipeline", "Accept-Encoding": "identity", **headers}
        connection, is_through_proxy = self._open(parts.scheme, parts.netloc)
        connection.request("GET", f"http://{parts.netloc}{target}" if is_through_proxy else target, headers=lines)
        return connection.getresponse()

    def _open(self, scheme: str, netloc: str) -> tuple[HTTPConnection, bool]:
        """Return a connection, the last one where it serves; whether the whole address must be said to it."""
        host = urlsplit(f"//{netloc}").hostname or ""
        proxy = None if proxy_bypass(netloc) else getproxies().get(scheme)
        says_all = proxy is not None and scheme == "http"
        if self._connection is not None and self._connected_to == (scheme, netloc):
            return self._connection, says_all
        self.close()
        port = urlsplit(f"//{netloc}").port
        kind: type[HTTPConnection] = _GuardedTls if scheme == "https" else _Guarded
        if proxy is None:
            self._connection = kind(host, port, timeout=self._timeout_s)
            self._connection.hosts = self._hosts  # type: ignore[attr-defined]
        else:  # the proxy looks names up: what it may reach is its keeper's to say
            via = urlsplit(proxy if "://" in proxy else f"//{proxy}")
            kind = HTTPSConnection if scheme == "https" else HTTPConnection
            self._connection = kind(via.hostname or "", via.port, timeout=self._timeout_s)
            if scheme == "https":
                self._connection.set_tunnel(host, port)
        self._connected_to = (scheme, netloc)
        return self._connection, says_all

    def _failure(self, why: str) -> VideoError:
        return VideoError(f"cannot be fetched: {self._shown}: {why}", VideoStatus.INTERRUPTED)

    def stop(self) -> None:
        """Make whatever another thread does with this file fail soon, also while it waits for bytes."""
        self._is_stopped = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
