"""What pages and API share: the served stores, their bounds, and the verbs that cost something."""

from __future__ import annotations

import asyncio
import json
import math
import re
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import date, datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread
import numpy as np
import pyarrow as pa
from starlette.requests import Request

from flows.serve import answers
from flows.serve.limits import Limits, ServiceBusyError, Turns
from flows.serve.maps import map_of, shown_sources
from flows.serve.media import Pictures
from flows.serve.stores import HeldDataset, ServedStore
from pipeline.errors import InvalidInputError, NotFoundError, PipelineError
from pipeline.query.bounds import Bounds, bounded
from pipeline.query.holdings import feature_pairs
from pipeline.settings import Settings

if TYPE_CHECKING:
    from extract.backbones.text_tower import TextEncoder
    from pipeline.recipe.backbones.text import TextTower
    from probe.flat_map import FlatMap

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
        self._is_closed = False
        self._towers = threading.Lock()
        self._loaded: dict[TextTower, TextEncoder] = {}
        self._uploads = Turns(1, limits.wait_s, "a search by a new video")

    def warm(self) -> None:
        """Make what the first visitor of each dataset would wait for; what is out of reach says so when it is asked."""
        for served in self.stores.values():
            served.warm = warm
            with suppress(PipelineError):
                for name in served.datasets():
                    self._warm_whole(served, served.dataset(name))

    def _warm_whole(self, served: ServedStore, held: HeldDataset) -> None:
        """Warm a moment, then what needs large libraries: indexes, and the map that is shown first."""
        warm(held)
        for index in held.dataset.artifacts("indexes"):
            if self._is_closed:
                return
            with suppress(PipelineError):
                answers.open_index(held, served.store, index)
        for source in shown_sources(held)[:1]:
            with suppress(PipelineError):
                self.flat_map(held, source)

    def flat_map(self, held: HeldDataset, source: str) -> tuple[FlatMap, str | None]:
        """Return a map and what is to be said of it, made once for this moment of the dataset."""
        return answers.once(held, ("map", source), lambda: map_of(held, source, self.settings.cache_folder))

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

    def search_text(
        self, served: ServedStore, held: HeldDataset, text: str, *, features: str = "", k: int, where: str = ""
    ) -> dict[str, Any]:
        """Return the videos nearest to words, of those that meet a condition, by a backbone's text tower."""
        from flows.text_search import load_tower, pick_target
        from probe.index.search import hits_of
        from probe.index.text_search import WordsIndex

        target = pick_target(held.dataset, features or None)
        among = self.rows(held, where) if where.strip() else None
        words = answers.once(
            held, ("words", target.label), lambda: WordsIndex(held.dataset, target.crops, target.feature_set)
        )
        with self._towers:
            if target.tower not in self._loaded:
                self._loaded = {target.tower: load_tower(target, held.dataset, self.settings)}
            vector = self._loaded[target.tower].encode([text])[0]
        near = words.search(vector, k, among)
        hits = hits_of(held.dataset, near.rows[0], near.similarities[0])
        return {"query": text, "index": target.label, "stale": None, "hits": [hit._asdict() for hit in hits]}

    def text_features(self, held: HeldDataset) -> list[str]:
        """Return the feature sets that words can be compared with."""
        from flows.text_search import text_targets

        return answers.once(held, "text", lambda: [target.label for target in text_targets(held.dataset)])

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
        self._is_closed = True
        self.pictures.close()


def warm(held: HeldDataset) -> None:
    """Compute what every view of a moment begins with: counts, facets, statuses, and the parts behind conditions."""
    with suppress(PipelineError):
        answers.overview(held)
        answers.facets(held)
        answers.failures(held)
        answers.filter_rows(held, "row < 0")
        for crops, name in feature_pairs(held.dataset):
            answers.status_table(held, crops, name)
