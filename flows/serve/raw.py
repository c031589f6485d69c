"""The bytes of a store, read-only, with ranges: what `FeatureStore.open("http://host:8500/store")` reads."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flows.serve.media import parse_range
from flows.serve.stores import ServedStore
from pipeline.errors import InvalidInputError
from pipeline.storage.backend import check_key, check_prefix

MAX_READ_BYTES = 64 << 20
"""Bytes of one answer; larger objects are read in ranges."""


def list_keys(served: ServedStore, prefix: str, recursive: bool) -> JSONResponse:
    """Answer the listing of a folder: keys with their sizes, and the folders in it."""
    backend = served.store.backend
    prefix = check_prefix(prefix)
    keys = backend.list(prefix, recursive=recursive)
    return JSONResponse({"keys": keys, "folders": backend.folders(prefix)})


def read_key(served: ServedStore, key: str, request: Request) -> Response:
    """Answer the bytes of a key, or a range of them.

    Raises
    ------
    InvalidInputError
        If more than 64 MiB are asked for at once, or the range lies outside.
    NotFoundError
        If there is no such key.
    """
    backend = served.store.backend
    size = backend.size(check_key(key))
    headers: dict[str, Any] = {"accept-ranges": "bytes", "cache-control": "no-cache"}
    if request.method == "HEAD":
        return Response(headers=headers | {"content-length": str(size)}, media_type="application/octet-stream")
    try:
        span = parse_range(request.headers.get("range"), size)
    except ValueError:
        return Response(status_code=416, headers={"content-range": f"bytes */{size}"})
    start, stop = span or (0, size)
    if stop - start > MAX_READ_BYTES:
        raise InvalidInputError(
            f"expected at most {MAX_READ_BYTES} bytes at once, found {stop - start}; ask for a Range"
        )
    data = backend.read_range(key, start, stop - start) if span else backend.read(key)
    if span:
        headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
    return Response(data, status_code=206 if span else 200, headers=headers, media_type="application/octet-stream")
