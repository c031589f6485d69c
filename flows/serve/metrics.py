"""Counters of the service as Prometheus text; they know routes, never addresses."""

from __future__ import annotations

import threading
import time
from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

BUCKETS_S = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0)


class Metrics:
    """Requests by route and status, and how long they took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._seconds: dict[str, float] = {}
        self._bytes: Counter[str] = Counter()
        self._started = time.time()

    def observe(self, route: str, status: int, seconds: float, num_bytes: int) -> None:
        """Count one answer."""
        with self._lock:
            self._requests[route, status] += 1
            self._seconds[route] = self._seconds.get(route, 0.0) + seconds
            self._bytes[route] += num_bytes
            for bound in BUCKETS_S:
                self._buckets[route, bound] += seconds <= bound

    def text(self) -> str:
        """Return everything in Prometheus' text format."""
        with self._lock:
            lines = ["# TYPE scale_serve_requests_total counter"]
            lines += [f'scale_serve_requests_total{{route="{r}",status="{s}"}} {n}'
                      for (r, s), n in sorted(self._requests.items())]  # fmt: skip
            lines.append("# TYPE scale_serve_seconds histogram")
            for route in sorted(self._seconds):
                total = sum(n for (r, _), n in self._requests.items() if r == route)
                lines += [f'scale_serve_seconds_bucket{{route="{route}",le="{b}"}} {self._buckets[route, b]}'
                          for b in BUCKETS_S]  # fmt: skip
                lines.append(f'scale_serve_seconds_bucket{{route="{route}",le="+Inf"}} {total}')
                lines.append(f'scale_serve_seconds_sum{{route="{route}"}} {self._seconds[route]:.6f}')
                lines.append(f'scale_serve_seconds_count{{route="{route}"}} {total}')
            lines.append("# TYPE scale_serve_bytes_total counter")
            lines += [f'scale_serve_bytes_total{{route="{r}"}} {n}' for r, n in sorted(self._bytes.items())]
            lines += ["# TYPE scale_serve_start_time_seconds gauge",
                      f"scale_serve_start_time_seconds {self._started:.0f}"]  # fmt: skip
        return "\n".join(lines) + "\n"


class Measured:
    """ASGI layer that counts what goes through it, by the route that matched."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, sent = time.perf_counter(), 500, 0

        async def sending(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.observe(route, status, time.perf_counter() - started, sent)
