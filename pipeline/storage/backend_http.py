"""A store read over HTTP from `scale serve`: the same keys, ranges and checks, and nothing that writes."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from pipeline.errors import ConflictError, CredentialsError, InvalidInputError, NotFoundError, SetupError, StorageError
from pipeline.storage.backend import BytesLike, Listing, Names, check_key, check_prefix

TIMEOUT_S = 60.0
PIECE_BYTES = 32 << 20
"""Larger objects are read in ranges of this size."""
MAX_LISTING_BYTES = 1 << 30


class HttpBackend:
    """The bytes of one served store.

    Parameters
    ----------
    url : str
        ``http://host:8500/store``; a token, where one is asked for, stands as ``?token=`` or in ``SCALE_SERVE_TOKEN``.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if not parts.hostname or not parts.path.strip("/"):
            raise InvalidInputError(f"expected http://HOST:PORT/STORE, found {url!r}")
        self.url = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
        self._parts = parts
        self._token = dict(parse_qsl(parts.query)).get("token") or os.environ.get("SCALE_SERVE_TOKEN")
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        query = urlencode({"token": self._token}) if self._token else ""
        return {"url": f"{self.url}?{query}" if query else self.url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"])  # type: ignore[misc]

    @property
    def is_local(self) -> bool:
        """Whether keys are files that can be memory-mapped."""
        return False

    def read(self, key: str) -> bytes:
        """Return all bytes of a key."""
        size = self.size(key)
        if size <= PIECE_BYTES:
            return self._get(key)
        pieces = (self.read_range(key, at, min(PIECE_BYTES, size - at)) for at in range(0, size, PIECE_BYTES))
        return b"".join(pieces)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Return `length` bytes from `start` (negative: from the end)."""
        if length <= 0:
            return b""
        span = f"bytes=-{-start}" if start < 0 else f"bytes={start}-{start + length - 1}"
        return self._get(key, span)[:length]

    def size(self, key: str) -> int:
        """Return the number of bytes of a key."""
        answer = self._ask("HEAD", f"-/raw/{quote(check_key(key))}")
        answer.read()
        return int(answer.headers["content-length"])

    def exists(self, key: str) -> bool:
        """Return whether the key exists."""
        try:
            self.size(key)
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str = "", *, recursive: bool = True) -> Listing:
        """Return (key, size in bytes) of every key in a folder, sorted."""
        return [(str(key), int(size)) for key, size in self._listed(prefix, recursive)["keys"]]

    def folders(self, prefix: str = "") -> Names:
        """Return the sorted names of the folders directly in a folder."""
        return [str(name) for name in self._listed(prefix, False)["folders"]]

    def leftovers(self, prefix: str = "", *, recursive: bool = True) -> Listing:
        """Return nothing: a reader far away need not know what killed writers left."""
        return []

    def links(self, prefix: str = "") -> Names:
        """Return nothing: what is a link is refused where the store lies."""
        return []

    def local_name(self, key: str) -> str | None:
        """Return None: there are no files here."""
        return None

    def local_path(self, key: str) -> Path | None:
        """Return None: there are no files here."""
        return None

    def put(self, key: str, data: BytesLike) -> None:
        """Refuse: a served store is read-only."""
        raise self._read_only()

    def create(self, key: str, data: BytesLike) -> None:
        """Refuse: a served store is read-only."""
        raise self._read_only()

    def delete(self, key: str) -> None:
        """Refuse: a served store is read-only."""
        raise self._read_only()

    def delete_all(self, keys: Sequence[str]) -> None:
        """Refuse: a served store is read-only."""
        raise self._read_only()

    def remove_link(self, key: str) -> None:
        """Refuse: a served store is read-only."""
        raise self._read_only()

    def zarr_store(self, *, read_only: bool = True) -> Any:
        """Refuse: only arrays that another program rewrote need zarr, and those are read where they lie."""
        raise SetupError(
            f"expected arrays as this project writes them, found some of {self.url} that another program rewrote; "
            "open the store itself instead of its served form"
        )

    def _read_only(self) -> ConflictError:
        return ConflictError(f"expected a store that can be written, found {self.url}, which is served read-only")

    def _listed(self, prefix: str, recursive: bool) -> dict[str, Any]:
        query = urlencode({"prefix": check_prefix(prefix), "recursive": str(recursive).lower()})
        answer = self._ask("GET", f"-/keys?{query}")
        data = answer.read(MAX_LISTING_BYTES)
        try:
            found = json.loads(data)
            for key, _ in found["keys"]:
                check_key(key)
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{self.url}: expected a listing of `scale serve`, found other bytes: {error}") from None
        return found

    def _get(self, key: str, span: str | None = None) -> bytes:
        answer = self._ask("GET", f"-/raw/{quote(check_key(key))}", {"Range": span} if span else {})
        if span and answer.status != 206:
            answer.read()
            raise StorageError(f"{self.url}: expected a range of {key}, found an answer {answer.status}")
        try:
            return answer.read()
        except (OSError, HTTPException) as error:
            self._drop()
            raise StorageError(f"{self.url}: expected all bytes of {key}, found an answer cut off: {error}") from None

    def _ask(self, method: str, path: str, headers: dict[str, str] | None = None) -> HTTPResponse:
        lines = dict(headers or {})
        if self._token:
            lines["Authorization"] = f"Bearer {self._token}"
        for attempt in (1, 2):  # the first connection may have been closed by the server while it was idle
            try:
                connection = self._connection()
                connection.request(method, f"{self._parts.path.rstrip('/')}/{path}", headers=lines)
                answer = connection.getresponse()
                break
            except (OSError, HTTPException) as error:
                self._drop()
                if attempt == 2:
                    raise StorageError(f"expected an answer of {self.url}, found none: {error}") from None
        if answer.status in (200, 206):
            return answer
        message = self._message(answer)
        if answer.status == 404:
            raise NotFoundError(f"{self.url}: {message}")
        if answer.status in (401, 403):
            raise CredentialsError(f"{self.url}: {message}; set SCALE_SERVE_TOKEN")
        raise StorageError(f"{self.url}: expected an answer, found {answer.status}: {message}")

    @staticmethod
    def _message(answer: HTTPResponse) -> str:
        data = answer.read(65_536)
        try:
            return str(json.loads(data)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return answer.reason or "no reason"

    def _connection(self) -> HTTPConnection:
        if getattr(self._local, "connection", None) is None:
            kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
            self._local.connection = kind(str(self._parts.hostname), self._parts.port, timeout=TIMEOUT_S)
        return self._local.connection

    def _drop(self) -> None:
        connection, self._local.connection = getattr(self._local, "connection", None), None
        if connection is not None:
            connection.close()
