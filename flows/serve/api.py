"""`/api/v1`: the store asked by programs. JSON by default, Arrow streams and npz where values are many."""

from __future__ import annotations

import io
from typing import Annotated, Any, Literal

import anyio.to_thread
import numpy as np
import pyarrow as pa
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response

from flows.serve import answers, made_of, one_video
from flows.serve.limits import Limits
from flows.serve.service import Service
from flows.serve.stores import HeldDataset, ServedStore
from pipeline.errors import InvalidInputError, NotFoundError
from pipeline.query.holdings import feature_pairs

ARROW = "application/vnd.apache.arrow.stream"


def service_of_app(request: Request) -> Service:
    """Return the service that answers."""
    return request.app.state.service


async def service_of(request: Request) -> Service:
    """Return the service that answers; in the event loop, since that costs nothing."""
    return service_of_app(request)


async def store_of(store: str, service: Annotated[Service, Depends(service_of)]) -> ServedStore:
    """Return the store that an address names."""
    return service.store(store)


async def held_of(dataset: str, served: Annotated[ServedStore, Depends(store_of)]) -> HeldDataset:
    """Return the dataset that an address names; beside the event loop where the store has to be asked."""
    held = served.at_hand(dataset)
    if held is not None:
        return held
    return await anyio.to_thread.run_sync(served.dataset, dataset)


TheService = Annotated[Service, Depends(service_of)]
TheStore = Annotated[ServedStore, Depends(store_of)]
Held = Annotated[HeldDataset, Depends(held_of)]
Where = Annotated[str, Query(max_length=20_000, description="SQL condition over the catalogue, as `select` takes it")]
Form = Annotated[Literal["json", "arrow"], Query(alias="format", description="json, or an Arrow stream")]
router = APIRouter(prefix="/api/v1")


@router.get("/stores", summary="Stores, their datasets and snapshots")
def list_stores(service: TheService) -> Any:
    """Return every served store with its datasets."""
    return {
        "stores": [
            {"store": name, "datasets": [{"dataset": d, "snapshot": s.dataset(d).snapshot} for d in s.datasets()]}
            for name, s in service.stores.items()
        ]
    }


@router.get("/{store}/{dataset}", summary="One dataset at a glance")
def one_dataset(held: Held, service: TheService) -> Any:
    """Return videos, hours, sets with progress by status, models, indexes, reports."""
    with service.heavy.take():
        found = dict(answers.overview(held))
    found["sets"] = [{**vars(s), "done": s.done, "total": s.total} for s in found["sets"]]
    return _json(found, held)


@router.get("/{store}/{dataset}/videos", summary="Videos that meet a condition")
def list_videos(
    held: Held,
    service: TheService,
    where: Where = "",
    columns: Annotated[str, Query(description="Comma-separated; all when empty")] = "",
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1)] = 100,
    form: Form = "json",
) -> Response:
    """Return rows of the catalogue, in their order, with the total number that meets the condition."""
    names = [c.strip() for c in columns.split(",") if c.strip()] or held.videos.column_names
    if unknown := sorted(set(names) - set(held.videos.column_names)):
        raise InvalidInputError(
            f"expected columns of {', '.join(held.videos.column_names)}, found {', '.join(unknown)}"
        )
    if form == "json" and limit > service.limits.max_rows:
        raise InvalidInputError(
            f"expected a limit of at most {service.limits.max_rows} rows as JSON, found {limit}; "
            "page on, or take format=arrow"
        )
    with service.heavy.take():
        rows = service.rows(held, where)
        table = held.videos.select(names).take(pa.array(rows[offset : offset + limit]))
        if form == "arrow":
            return _arrow(table, held, service.limits)
        return _json({"total": len(rows), "offset": offset, "videos": table.to_pylist()}, held)


@router.get("/{store}/{dataset}/videos/{row}", summary="One video: facts, statuses, crops, predictions")
def whole_video(row: int, held: Held, service: TheService) -> Response:
    """Return everything the store knows of a video."""
    with service.heavy.take():
        found = one_video.video_facts(held, row)
        found |= {"crops": one_video.video_crops(held, row), "predictions": one_video.predictions_of(held, row)}
    return _json(found, held)


@router.get("/{store}/{dataset}/row", summary="The row of a video id")
def row_of(held: Held, video_id: Annotated[str, Query(max_length=4096)]) -> Response:
    """Return the row number of a video id."""
    return _json({"video_id": video_id, "row": held.dataset.row_of(video_id)}, held)


@router.get("/{store}/{dataset}/status", summary="What became of the videos in a feature set")
def status(
    held: Held,
    service: TheService,
    features: Annotated[str, Query(description="crops/feature set")],
    form: Form = "json",
) -> Response:
    """Return counts by status (JSON), or one line a video (Arrow)."""
    crops, feature_set = _pair(held, features)
    with service.heavy.take():
        if form == "arrow":
            return _arrow(held.dataset.status(crops, feature_set), held, service.limits)
        column = answers.statuses(held, crops, feature_set)
        counts = {i["values"]: i["counts"] for i in column.value_counts().to_pylist()}
        return _json({"features": features, "counts": counts, "failures": answers.failures(held)}, held)


@router.get("/{store}/{dataset}/features/{crops}/{feature_set}", summary="Crop features: npz or Arrow")
def features(
    crops: str,
    feature_set: str,
    held: Held,
    service: TheService,
    where: Where = "",
    rows: Annotated[str, Query(description="Row numbers, comma-separated")] = "",
    form: Annotated[Literal["npz", "arrow"], Query(alias="format")] = "npz",
) -> Response:
    """Return values (n, V, D), valid (n, V), geometry (n, V, 9) and rows (n,) of the chosen videos."""
    _pair(held, f"{crops}/{feature_set}")
    info = held.dataset.feature_info(crops, feature_set)
    with service.heavy.take():
        chosen = service.rows(held, where, rows)
        row_bytes = info.num_crops * (info.dim * np.dtype(info.dtype).itemsize + 37)
        _check_bytes(len(chosen) * row_bytes, service.limits)
        block = held.dataset.select(rows=chosen).features(crops, feature_set)
        if form == "npz":
            arrays = {"values": block.values, "valid": block.valid, "geometry": block.geometry, "rows": block.rows}
            return _npz(arrays, held)
        lists = pa.FixedSizeListArray.from_arrays(
            pa.array(np.asarray(block.values).reshape(-1)), info.num_crops * info.dim
        )
        valid = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(block.valid).reshape(-1)), info.num_crops)
        table = pa.table({"row": block.rows, "values": lists, "valid": valid})
        return _arrow(table, held, service.limits)


@router.get("/{store}/{dataset}/embeddings/{name}", summary="Video embeddings: npz or Arrow")
def embeddings(
    name: str,
    held: Held,
    service: TheService,
    where: Where = "",
    rows: Annotated[str, Query(description="Row numbers, comma-separated")] = "",
    form: Annotated[Literal["npz", "arrow"], Query(alias="format")] = "npz",
) -> Response:
    """Return values (n, E), valid (n,) and rows (n,) of the chosen videos."""
    info = held.dataset.embedding_info(name)
    with service.heavy.take():
        chosen = service.rows(held, where, rows)
        _check_bytes(len(chosen) * (info.dim * np.dtype(info.dtype).itemsize + 9), service.limits)
        block = held.dataset.select(rows=chosen).embeddings(name)
        if form == "npz":
            return _npz({"values": block.values, "valid": block.valid, "rows": block.rows}, held)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(block.values).reshape(-1)), info.dim)
        return _arrow(pa.table({"row": block.rows, "values": lists, "valid": block.valid}), held, service.limits)


@router.get("/{store}/{dataset}/search", summary="Neighbours of a stored video")
def search_stored(
    held: Held,
    served: TheStore,
    service: TheService,
    video_id: Annotated[str, Query(max_length=4096)],
    index: str = "default",
    k: Annotated[int, Query(ge=1, le=1000)] = 10,
    where: Where = "",
) -> Response:
    """Return the nearest videos of a stored one (of those that meet a condition), itself left out."""
    with service.heavy.take():
        return _json(service.search_id(served, held, video_id, index=index, k=k, where=where), held)


@router.get("/{store}/{dataset}/search/text", summary="Videos nearest to words")
def search_text(
    held: Held,
    served: TheStore,
    service: TheService,
    text: Annotated[str, Query(min_length=1, max_length=1000)],
    features: Annotated[str, Query(description="crops/feature set; the first whose backbone has a text tower")] = "",
    k: Annotated[int, Query(ge=1, le=1000)] = 10,
    where: Where = "",
) -> Response:
    """Return the videos nearest to words, where a backbone of the dataset has a text tower."""
    with service.heavy.take():
        return _json(service.search_text(served, held, text, features=features, k=k, where=where), held)


@router.post("/{store}/{dataset}/search/vector", summary="Neighbours of a vector")
async def search_vector(
    request: Request,
    held: Held,
    served: TheStore,
    service: TheService,
    index: str = "default",
    k: Annotated[int, Query(ge=1, le=1000)] = 10,
) -> Response:
    """Take a JSON list of numbers, made like the index's own vectors; return the nearest videos."""
    body = await service.body(request, max_bytes=16 << 20)
    return _json(await service.in_thread(service.search_vector, served, held, body, index, k), held)


@router.post("/{store}/{dataset}/search/video", summary="Neighbours of a video that is sent")
async def search_video(
    request: Request,
    held: Held,
    served: TheStore,
    service: TheService,
    name: Annotated[str, Query(max_length=255, description="File name, for its ending")] = "video.mp4",
    index: str = "default",
    k: Annotated[int, Query(ge=1, le=1000)] = 10,
) -> Response:
    """Take the bytes of a video file as the body; it is seen with the index's own recipe, one at a time."""
    async with service.upload(request, name) as file:
        return _json(await service.in_thread(service.search_file, served, held, file, index, k), held)


@router.get("/{store}/-/sql", summary="One read-only SELECT")
def sql(
    served: TheStore, service: TheService, query: Annotated[str, Query(max_length=20_000)], form: Form = "json"
) -> Response:
    """Run one SELECT over the store's tables; see docs/store.md for them."""
    with service.heavy.take():
        table = service.sql(served, query)
        if form == "arrow":
            return Response(_stream(table, service.limits), media_type=ARROW)
        if table.num_rows > service.limits.max_rows:
            raise InvalidInputError(
                f"expected at most {service.limits.max_rows} rows as JSON, found {table.num_rows}; "
                "add LIMIT or format=arrow"
            )
        return JSONResponse(service.jsonable({"columns": table.column_names, "rows": table.to_pylist()}))


@router.get("/{store}/{dataset}/lineage", summary="What a thing is made of")
def lineage(
    held: Held,
    service: TheService,
    of: Annotated[str, Query(max_length=1000, description="reports/NAME[@2][#3], indexes/NAME, embeddings/NAME ...")],
) -> Response:
    """Walk from a report, a number, an index, an embedding or a model to weights, videos and snapshot."""
    with service.heavy.take():
        return _json(made_of.origin(held, of).as_json(), held)


@router.get("/{store}/{dataset}/reports", summary="Stored reports and their numbers")
def reports(held: Held, service: TheService) -> Response:
    """Return every report with its results."""
    with service.heavy.take():
        return _json({"reports": service.reports(held)}, held)


def _pair(held: HeldDataset, features: str) -> tuple[str, str]:
    known = [f"{c}/{n}" for c, n in feature_pairs(held.dataset)]
    if features not in known:
        raise NotFoundError(f"expected features out of {', '.join(known) or 'none yet'}, found {features!r}")
    crops, _, feature_set = features.partition("/")
    return crops, feature_set


def _check_bytes(num_bytes: int, limits: Limits) -> None:
    if num_bytes > limits.max_answer_bytes:
        raise InvalidInputError(
            f"expected an answer of at most {limits.max_answer_bytes} bytes, found {num_bytes}; "
            "ask for fewer rows at once"
        )


def _headers(held: HeldDataset) -> dict[str, str]:
    return {"x-scale-snapshot": held.snapshot, "cache-control": "no-cache"}


def _json(content: Any, held: HeldDataset) -> JSONResponse:
    return JSONResponse(Service.jsonable({**content, "snapshot": held.snapshot}), headers=_headers(held))


def _stream(table: pa.Table, limits: Limits) -> bytes:
    _check_bytes(table.nbytes, limits)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _arrow(table: pa.Table, held: HeldDataset, limits: Limits) -> Response:
    return Response(_stream(table, limits), media_type=ARROW, headers=_headers(held))


def _npz(arrays: dict[str, np.ndarray], held: HeldDataset) -> Response:
    sink = io.BytesIO()
    np.savez(sink, **arrays)  # type: ignore[arg-type]
    return Response(sink.getvalue(), media_type="application/x-npz", headers=_headers(held))
