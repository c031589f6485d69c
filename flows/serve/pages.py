"""The pages: every view is an address that can be sent, works without a script, and is fenced in by its headers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader

from flows.serve import answers, made_of, one_video
from flows.serve.api import Held, TheService, TheStore, service_of_app
from flows.serve.colouring import PointGroup, coloured
from flows.serve.maps import shown_sources
from flows.serve.media import PLAYABLE, etag_of
from pipeline.errors import NotFoundError, PipelineError, QueryError
from pipeline.look.pages import look_script, look_style, page_environment
from pipeline.status import VideoStatus

PAGE_ROWS = 60
HTMX = "htmx-2.0.11.min.js"
router = APIRouter(include_in_schema=False)
Text = Annotated[str, Query(max_length=20_000)]
Rows = Annotated[str, Query(max_length=40_000)]


def choice(where: Text = "", label: Text = "", split: Text = "", status: Text = "", rows: Rows = "") -> dict[str, str]:
    """Return what an address says of which videos to show; what it leaves open is left out."""
    given = {"where": where, "label": label, "split": split, "status": status, "rows": rows}
    return {name: value for name, value in given.items() if value}


Asked = Annotated[dict[str, str], Depends(choice)]


@cache
def environment() -> Environment:
    """Return the templates: everything escaped, a misspelt name is an error."""
    env = page_environment(PackageLoader("flows.serve"))
    env.filters.update(query=_query)
    return env


def render(request: Request, template: str, code: int = 200, **values: Any) -> HTMLResponse:
    """Render a page (or, for htmx, the part of it that `template` names)."""
    service = service_of_app(request)
    shared = {"stores": list(service.stores), "path": request.url.path, "store": None, "dataset": None, "view": ""}
    text = environment().get_template(template).render(**(shared | values))
    return HTMLResponse(text, status_code=code, headers={"cache-control": "no-cache", "vary": "HX-Request"})


@router.get("/")
def home(request: Request, service: TheService) -> Response:
    """Show the stores."""
    cards = []
    for name, served in service.stores.items():
        try:
            held = [served.dataset(d) for d in served.datasets()]
            rooms = [{"name": h.dataset.name, "videos": h.dataset.num_rows} for h in held]
            cards.append({"store": name, "url": served.store.url, "error": None, "datasets": rooms})
        except PipelineError as error:
            cards.append({"store": name, "url": served.store.url, "error": str(error), "datasets": []})
    return render(request, "home.html.j2", cards=cards, title="Stores")


@router.get("/{store}/{dataset}")
def dataset_page(request: Request, store: str, held: Held, service: TheService) -> Response:
    """Show what a dataset holds and how far it is."""
    with service.heavy.take():
        found, runs = answers.overview(held), made_of.last_runs(held)
    return _page(request, "dataset.html.j2", store, held, "overview", found=found, runs=runs)


@router.get("/{store}/{dataset}/videos")
def videos_page(
    request: Request,
    store: str,
    held: Held,
    service: TheService,
    asked: Asked,
    page: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
) -> Response:
    """Show a grid of videos; scrolling asks for the next page."""
    problem = None
    with service.heavy.take():
        try:
            chosen = service.rows(held, **asked)
        except QueryError as error:
            chosen, problem = np.empty(0, np.int64), str(error)
        shown = answers.describe_rows(held, chosen[page * PAGE_ROWS : (page + 1) * PAGE_ROWS])
        found = answers.facets(held)
    has_more = len(chosen) > (page + 1) * PAGE_ROWS
    more = f"?{urlencode(asked | {'page': page + 1})}" if has_more else None
    part = {"grid-more": "_grid.html.j2", "results": "_results.html.j2"}.get(request.headers.get("hx-target", ""))
    return _page(
        request, part or "videos.html.j2", store, held, "videos", videos=shown, total=len(chosen), more=more,
        asked=asked, facets=found, problem=problem,
    )  # fmt: skip


@router.get("/{store}/{dataset}/videos.csv")
def videos_csv(held: Held, service: TheService, asked: Asked) -> Response:
    """Return the chosen videos as CSV."""
    import io

    import pyarrow as pa
    import pyarrow.csv as pc

    with service.heavy.take():
        chosen = service.rows(held, **asked)
        table = held.videos.select(["row", "video_id", "label", "group"]).take(pa.array(chosen))
        sink = io.BytesIO()
        pc.write_csv(table, sink)
    headers = {"content-disposition": 'attachment; filename="videos.csv"'}
    return Response(sink.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/{store}/{dataset}/video/{row}")
def video_page(request: Request, store: str, row: int, held: Held, served: TheStore, service: TheService) -> Response:
    """Show one video: it plays where the browser can, its crops lie on a timeline."""
    with service.heavy.take():
        found = one_video.video_facts(held, row)
        crops = one_video.video_crops(held, row)
        predicted = one_video.predictions_of(held, row)
    playable, problem = None, None
    try:
        path = service.pictures.video_path(held, row)
        playable = PLAYABLE.get(path.suffix.lower())
    except NotFoundError as error:
        problem = str(error)
    kept = service.pictures.kept(held, row) is not None
    return _page(
        request, "video.html.j2", store, held, "videos", row=row, kept=kept, found=found, crops=crops,
        predicted=predicted, playable=playable, problem=problem, num_rows=held.dataset.num_rows,
        indexes=held.dataset.artifacts("indexes"),
    )  # fmt: skip


@router.get("/{store}/{dataset}/video/{row}/neighbours")
def neighbours_part(
    request: Request, store: str, row: int, held: Held, served: TheStore, service: TheService
) -> Response:
    """Show the neighbours of a video in every index; asked for by the page when it is there."""
    answers.check_row(held, row)
    with service.heavy.take():
        near = answers.neighbours(held, served.store, row)
    return _page(request, "_neighbours.html.j2", store, held, "videos", near=near)


@router.get("/{store}/{dataset}/map")
def map_page(
    request: Request, store: str, held: Held, service: TheService, source: Text = "", colour: Text = "label"
) -> Response:
    """Show a map of one vector a video."""
    sources = shown_sources(held)
    source = source or (sources[0] if sources else "")
    made, problem, remark = None, None, None
    groups: list[PointGroup] = []
    if source:
        try:
            with service.heavy.take():
                made, remark = service.flat_map(held, source)
                shown = made
                groups = answers.once(held, ("points", source, colour), lambda: coloured(held, shown, colour))
        except PipelineError as error:
            problem = str(error)
    return _page(request, "map.html.j2", store, held, "map", sources=sources, source=source, colour=colour, made=made,
                 groups=groups, problem=problem, remark=remark, splits=_split_names(held),
                 reports=held.dataset.artifacts("reports"))  # fmt: skip


@router.get("/{store}/{dataset}/search")
def search_page(
    request: Request,
    store: str,
    held: Held,
    served: TheStore,
    service: TheService,
    video_id: Text = "",
    text: Text = "",
    index: Text = "",
    where: Text = "",
    k: Annotated[int, Query(ge=1, le=200)] = 24,
) -> Response:
    """Show a search by id or by words, and the place where a video file is dropped."""
    indexes = held.dataset.artifacts("indexes")
    index = index or (indexes[0] if indexes else "")
    found, problem = None, None
    try:
        with service.heavy.take():
            if text.strip():
                found = service.search_text(served, held, text[:1000], k=k, where=where)
            elif video_id and index:
                found = service.search_id(served, held, video_id, index=index, k=k, where=where)
    except PipelineError as error:
        problem = str(error)
    part = "_hits.html.j2" if request.headers.get("hx-request") else "search.html.j2"
    return _page(
        request, part, store, held, "search", indexes=indexes, index=index, video_id=video_id, text=text, where=where,
        found=found, problem=problem, words=service.text_features(held),
    )  # fmt: skip


@router.post("/{store}/{dataset}/search/upload")
async def search_upload(
    request: Request,
    store: str,
    held: Held,
    served: TheStore,
    service: TheService,
    name: Annotated[str, Query(max_length=255)] = "video.mp4",
    index: Text = "default",
) -> Response:
    """Show what resembles a file that was dropped."""
    found, problem = None, None
    try:
        async with service.upload(request, name) as file:
            found = await service.in_thread(service.search_file, served, held, file, index, 24)
    except PipelineError as error:
        problem = str(error)
    return _page(request, "_hits.html.j2", store, held, "search", found=found, problem=problem, video_id="")


@router.get("/{store}/{dataset}/reports")
def reports_page(request: Request, store: str, held: Held, service: TheService) -> Response:
    """Show all reports side by side."""
    with service.heavy.take():
        found = service.reports(held)
    keys: dict[str, dict[str, Any]] = {}
    for report in found:
        for result in report["results"]:
            keys.setdefault(result["id"], {})[report["report"]] = result
    return _page(request, "reports.html.j2", store, held, "reports", reports=found, lines=keys)


@router.get("/{store}/{dataset}/reports/{name}/page")
def report_file(name: str, held: Held) -> Response:
    """Return the stored page of a report. It came from the store, so it runs in an origin of its own."""
    from probe.stage import HTML_FILE

    data = held.dataset.artifact("reports", name).read(HTML_FILE)
    return HTMLResponse(
        data, headers={"content-security-policy": "sandbox allow-scripts allow-popups", "cache-control": "no-cache"}
    )


@router.get("/{store}/{dataset}/lineage")
def lineage_page(request: Request, store: str, held: Held, service: TheService, of: Text) -> Response:
    """Show what a report, a number of it, an index, an embedding or a model is made of, down to the videos."""
    with service.heavy.take():
        found = made_of.origin(held, of)
    return _page(request, "lineage.html.j2", store, held, "reports", origin=found, of=of)


@router.get("/{store}/{dataset}/failures")
def failures_page(request: Request, store: str, held: Held, served: TheStore, service: TheService) -> Response:
    """Show why videos have no features, with the command that tries them again."""
    with service.heavy.take():
        found = answers.failures(held)
    retryable = [s.value for s in VideoStatus if s is not VideoStatus.OK]
    return _page(
        request, "failures.html.j2", store, held, "failures", failures=found, retryable=retryable, url=served.store.url
    )


@router.get("/{store}/{dataset}/thumbnail/{row}.jpg")
def thumbnail(
    request: Request,
    row: int,
    held: Held,
    service: TheService,
    at: Annotated[float, Query(ge=0, le=1)] = 0.5,
    w: Annotated[int, Query(ge=16, le=1280)] = 240,
) -> Response:
    """Return a frame of a video."""
    answers.check_row(held, row)
    etag = etag_of(held.dataset.name, row, held.videos["sha256"][row].as_py(), at, w)
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers={"etag": etag})
    picture = service.pictures.thumbnail(held, row, at=at, width_px=w)
    return Response(picture, media_type="image/jpeg", headers={"etag": etag, "cache-control": "private, max-age=3600"})


def _page(request: Request, template: str, store: str, held: Any, view: str, **values: Any) -> HTMLResponse:
    name = held.dataset.name
    base = f"/{store}/{name}"
    return render(
        request,
        template,
        store=store,
        dataset=name,
        base=base,
        view=view,
        snapshot=held.snapshot,
        title=f"{name} · {view}",
        has_picture=lambda row: service_of_app(request).pictures.has(held, row),
        **values,
    )


def _split_names(held: Any) -> list[str]:
    return sorted({text.partition(" = ")[0] for text, _ in answers.facets(held)["split"]})


def _query(asked: Mapping[str, str], **changed: Any) -> str:
    """Return a query string with some values set, or (None) left out."""
    merged = {k: v for k, v in {**asked, **changed}.items() if v not in (None, "")}
    return "?" + urlencode(merged) if merged else "?"


def static_file(name: str) -> bytes:
    """Return a file that pages fetch; NotFoundError for any other name."""
    own = files("flows.serve") / "static"
    if name == "style.css":
        return (look_style() + (own / "serve.css").read_text("utf-8")).encode()
    if name == "page.js":
        return (look_script() + (own / "serve.js").read_text("utf-8")).encode()
    if name != HTMX:
        raise NotFoundError(f"expected a file of the page, found {name!r}")
    return (own / name).read_bytes()
