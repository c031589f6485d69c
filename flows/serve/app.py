"""The application: pages, API, raw store, metrics, behind one guard. Read-only from end to end."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from flows.serve import api, pages, raw
from flows.serve.api import TheService, TheStore
from flows.serve.guard import Guard
from flows.serve.limits import Limits
from flows.serve.media import PLAYABLE, etag_of, parse_range
from flows.serve.metrics import Measured, Metrics
from flows.serve.service import Service
from flows.serve.stores import ServedStore
from pipeline.errors import (
    ConflictError,
    FormatError,
    InvalidInputError,
    NotFoundError,
    PipelineError,
    TransientError,
    VideoError,
)
from pipeline.settings import Settings

log = logging.getLogger(__name__)
_STATUS: tuple[tuple[type[PipelineError], int], ...] = (
    (InvalidInputError, 400), (NotFoundError, 404), (VideoError, 422), (ConflictError, 409), (FormatError, 500),
    (TransientError, 503),
)  # fmt: skip
_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}


def build_app(
    stores: Mapping[str, ServedStore],
    settings: Settings,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: Iterable[str] = ("localhost", "127.0.0.1"),
) -> ASGIApp:
    """Make the application.

    Parameters
    ----------
    stores : mapping of name to ServedStore
    settings : Settings
        `data`: the folder that videos are shown from; without it pages have no pictures.
    limits : Limits, optional
    token : str, optional
        Asked of everybody; needed beyond loopback (:func:`flows.serve.guard.check_exposure`).
    hosts : iterable of str
        Names that a browser may call this server by; empty: any.

    Returns
    -------
    ASGI application
    """
    service, metrics = Service(stores, settings, limits or Limits()), Metrics()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        threading.Thread(target=service.warm, daemon=True, name="warm").start()
        yield
        service.close()

    app = FastAPI(
        title="SCALE feature store", version="1", docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json",
        lifespan=lifespan,
    )  # fmt: skip
    app.state.service = service
    app.add_exception_handler(PipelineError, _explain)
    app.add_exception_handler(RequestValidationError, _explain_request)
    app.add_exception_handler(HTTPException, _explain_http)
    app.add_exception_handler(Exception, _apologise)
    _add_plain_routes(app, metrics)
    app.include_router(api.router)
    app.include_router(pages.router)
    return Guard(Measured(app, metrics), token=token, hosts=hosts)


def _add_plain_routes(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/healthz", include_in_schema=False)
    def healthz() -> Response:
        return PlainTextResponse("ok\n")

    @app.get("/metrics", include_in_schema=False)
    def prometheus() -> Response:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/api", include_in_schema=False)
    def api_page(request: Request) -> Response:
        return pages.render(request, "api.html.j2", title="API", paths=app.openapi()["paths"])

    @app.get("/-/static/{name}", include_in_schema=False)
    def static(request: Request, name: str) -> Response:
        data = pages.static_file(name)
        etag = etag_of(data)
        headers = {"etag": etag, "cache-control": "public, max-age=3600"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=_TYPES[name.rpartition(".")[2]], headers=headers)

    @app.get("/{store}/-/keys", include_in_schema=False)
    def keys(served: TheStore, prefix: str = "", recursive: bool = True) -> Response:
        return raw.list_keys(served, prefix, recursive)

    @app.api_route("/{store}/-/raw/{key:path}", methods=["GET", "HEAD"], include_in_schema=False)
    def key(request: Request, served: TheStore, key: str) -> Response:
        return raw.read_key(served, key, request)

    @app.get("/{store}/{dataset}/media/{row}", include_in_schema=False)
    def media(request: Request, row: int, held: api.Held, service: TheService) -> Response:
        path = service.pictures.video_path(held, row)
        kind = PLAYABLE.get(path.suffix.lower())
        if kind is None or not path.is_file():
            raise NotFoundError(f"expected a container that browsers play ({', '.join(PLAYABLE)}), found {path.suffix}")
        size = path.stat().st_size
        try:
            span = parse_range(request.headers.get("range"), size) or (0, size)
        except ValueError:
            return Response(status_code=416, headers={"content-range": f"bytes */{size}"})
        start, stop = span[0], min(span[1], span[0] + raw.MAX_READ_BYTES)
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(stop - start)
        headers = {"accept-ranges": "bytes", "content-range": f"bytes {start}-{start + len(data) - 1}/{size}",
                   "cache-control": "private, no-cache"}  # fmt: skip
        return Response(data, status_code=206, media_type=kind, headers=headers)


def status_of(error: PipelineError) -> int:
    """Return the HTTP status of an error of ours."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def _answer(request: Request, status: int, kind: str, message: str) -> Response:
    headers = {"retry-after": "5"} if status == 503 else {}
    wants_page = "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")
    if wants_page or request.headers.get("hx-request"):
        answer: Response = pages.render(
            request, "error.html.j2", status, title=str(status), status=status, message=message
        )
        answer.headers.update(headers)
        return answer
    return JSONResponse({"error": {"type": kind, "message": message}}, status_code=status, headers=headers)


def _explain(request: Request, error: Exception) -> Response:
    assert isinstance(error, PipelineError)
    return _answer(request, status_of(error), type(error).__name__, str(error))


def _explain_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    lines = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
    return _answer(request, 400, "InvalidInputError", "; ".join(lines))


def _explain_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(request, error.status_code, "HTTPError", f"{error.detail}: {request.url.path}")


def _apologise(request: Request, error: Exception) -> Response:
    log.error("a fault in scale serve itself", exc_info=error)
    return _answer(request, 500, "InternalError", "a fault in scale serve itself, written to its log; please report it")
