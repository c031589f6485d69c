"""What pages and API share: the served stores, their bounds, and the verbs that cost something."""

from __future__ import annotations

import asyncio
import json
import math
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import date, datetime
from pathlib import Path, PurePath
from typing import Any, TypeVar

import anyio.to_thread
import numpy as np
import pyarrow as pa
from starlette.requests import Request

from flows.serve import answers
from flows.serve.limits import Limits, ServiceBusyError, Turns
from flows.serve.media import Pictures
from flows.serve.stores import HeldDataset, ServedStore
from pipeline.errors import InvalidInputError, NotFoundError, PipelineError
from pipeline.query.bounds import Bounds, bounded
from pipeline.settings import Settings

T = TypeVar("T")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}\Z")


class Service:
    """Answers for any number of stores.

    Parameters
    ----------
    stores : mapping of name to ServedStore
    settings : Settings
        `data` (videos are shown from below it alone), `weights`, `device`, `cache`.
    limits : Limits
    """

    def __init__(self, stores: Mapping[str, ServedStore], settings: Settings, limits: Limits) -> None:
        self.stores, self.settings, self.limits = stores, settings, limits
        self.heavy = Turns(limits.heavy, limits.wait_s, "an answer")
        self.pictures = Pictures(settings, Turns(1, limits.wait_s, "decoding a frame"))
        self._bounds = Bounds(limits.query_s, limits.query_bytes)
        self._uploads = Turns(1, limits.wait_s, "a search by a new video")

    def store(self, name: str) -> ServedStore:
        """Return a served store; NotFoundError names those there are."""
        if name not in self.stores:
            raise NotFoundError(f"expected a store out of {', '.join(self.stores)}, found {name!r}")
        return self.stores[name]

    def rows(self, held: HeldDataset, where: str = "", rows: str = "", **kinds: str) -> np.ndarray:
        """Return the rows that meet a condition (and are among `rows`)."""
        with bounded(self._bounds):
            return answers.filter_rows(held, where, rows=rows, **kinds)

    def sql(self, served: ServedStore, query: str) -> pa.Table:
        """Run one SELECT."""
        with bounded(self._bounds):
            return served.store.sql(query)

    def reports(self, held: HeldDataset) -> list[dict[str, Any]]:
        """Return stored reports, newest first: name, created, snapshot, results; a damaged one says so."""
        from probe.stage import read_report

        def make() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            for name in held.dataset.artifacts("reports"):
                try:
                    report = read_report(held.dataset, name)
                except (PipelineError, ValueError) as error:
                    found.append({"report": name, "created": "", "snapshot": "", "error": str(error), "results": []})
                    continue
                results = [json.loads(r.model_dump_json()) for r in report.results]
                found.append({"report": name, "created": report.created, "snapshot": report.snapshot, "error": None,
                              "recipe": report.recipe, "seconds": report.seconds, "warnings": list(report.warnings),
                              "results": results})  # fmt: skip
            return sorted(found, key=lambda r: r["created"], reverse=True)

        return answers.once(held, "reports", make)

    def search_id(
        self, served: ServedStore, held: HeldDataset, video_id: str, *, index: str, k: int, where: str = ""
    ) -> dict[str, Any]:
        """Return the neighbours of a stored video, of those that meet a condition."""
        among = self.rows(held, where) if where.strip() else None
        found = answers.nearest(held, served.store, held.dataset.row_of(video_id), index, k, among)
        return {"query": video_id, **found}

    def search_vector(self, served: ServedStore, held: HeldDataset, body: bytes, index: str, k: int) -> dict[str, Any]:
        """Return the neighbours of a vector given as JSON."""
        from probe.index.search import hits_of

        try:
            vector = np.array(json.loads(body), np.float32)
        except (ValueError, TypeError, RecursionError, OverflowError) as error:
            raise InvalidInputError(f"expected a JSON list of numbers, found something else: {error}") from None
        with self.heavy.take():
            opened = answers.open_index(held, served.store, index)
            near = opened.search(vector, k)
            hits = hits_of(held.dataset, near.rows[0], near.similarities[0])
        return {"query": "vector", "index": index, "stale": opened.stale, "hits": [h._asdict() for h in hits]}

    def search_file(self, served: ServedStore, held: HeldDataset, file: Path, index: str, k: int) -> dict[str, Any]:
        """Return the neighbours of a video file that was sent; one at a time, decoded in guarded processes."""
        from flows.search import search_video

        with self._uploads.take():
            found = search_video(served.store, held.dataset.name, file, self.settings, k=k, index=index)
        return {"query": file.name, "index": index, "stale": found.stale, "hits": [h._asdict() for h in found.hits]}

    async def body(self, request: Request, *, max_bytes: int) -> bytes:
        """Return the body of a request, bounded in bytes and time."""
        chunks: list[bytes] = []
        size = 0

        async def read() -> None:
            nonlocal size
            async for chunk in request.stream():
                size += len(chunk)
                if size > max_bytes:
                    raise InvalidInputError(f"expected at most {max_bytes} bytes, found more")
                chunks.append(chunk)

        await self._in_time(read())
        return b"".join(chunks)

    @asynccontextmanager
    async def upload(self, request: Request, name: str) -> AsyncIterator[Path]:
        """Receive a file into a folder of its own; it is gone when the answer is made.

        Raises
        ------
        InvalidInputError
            If it is empty, larger than the limit, or does not arrive in time.
        """
        suffix = _SUFFIX.search(PurePath(name).name)
        with tempfile.TemporaryDirectory(prefix="scale-serve-") as folder:
            path = Path(folder) / f"upload{suffix[0].lower() if suffix else '.mp4'}"
            size = 0

            async def receive() -> None:
                nonlocal size
                with open(path, "wb") as out:
                    async for chunk in request.stream():
                        size += len(chunk)
                        if size > self.limits.max_upload_bytes:
                            raise InvalidInputError(
                                f"expected a video of at most {self.limits.max_upload_bytes} bytes, found more"
                            )
                        await anyio.to_thread.run_sync(out.write, chunk)

            await self._in_time(receive())
            if not size:
                raise InvalidInputError("expected the bytes of a video as the body, found none")
            yield path

    async def _in_time(self, work: Any) -> None:
        try:
            await asyncio.wait_for(work, self.limits.upload_s)
        except TimeoutError:
            raise ServiceBusyError(
                f"expected the body within {self.limits.upload_s:g} s, found it incomplete"
            ) from None

    async def in_thread(self, verb: Callable[..., T], *arguments: Any) -> T:
        """Run a verb beside the event loop."""
        return await anyio.to_thread.run_sync(lambda: verb(*arguments))

    @staticmethod
    def jsonable(content: Any) -> Any:
        """Return content that is JSON everywhere: times as ISO texts, NaN and infinity as null, bytes as hex."""
        if isinstance(content, dict):
            return {str(key): Service.jsonable(value) for key, value in content.items()}
        if isinstance(content, list | tuple | set):
            return [Service.jsonable(value) for value in content]
        if isinstance(content, np.generic):
            return Service.jsonable(content.item())
        if isinstance(content, float):
            return content if math.isfinite(content) else None
        if isinstance(content, datetime | date):
            return content.isoformat()
        if isinstance(content, bytes):
            return content.hex()
        return content if isinstance(content, str | int | bool | type(None)) else str(content)

    def close(self) -> None:
        """End what runs beside the answers."""
        self.pictures.close()
