"""Start the server: addresses checked before a port is opened."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from flows.serve.app import build_app
from flows.serve.guard import check_exposure
from flows.serve.limits import Limits
from flows.serve.stores import open_stores
from pipeline.errors import SetupError
from pipeline.settings import Settings

KEEP_ALIVE_S = 15
MAX_CONNECTIONS = 512


def serve(
    urls: Sequence[str],
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8500,
    token: str | None = None,
    limits: Limits | None = None,
    names: Sequence[str] = (),
) -> None:
    """Serve stores until interrupted.

    Parameters
    ----------
    urls : sequence of str
        Folders or addresses of stores, each also as ``NAME=ADDRESS``.
    settings : Settings
    host, port
        Where to listen.
    token : str, optional
        Needed beyond loopback.
    limits : Limits, optional
    names : sequence of str
        Host names that browsers call this server by, beside `host` and loopback.

    Raises
    ------
    InvalidInputError
        If there is no store, or no token where one is needed.
    SetupError
        If the port is taken.
    """
    import uvicorn

    check_exposure(host, token)
    hosts = [] if token is not None and not names else ["localhost", "127.0.0.1", host, *names]
    app = build_app(open_stores(urls), settings, limits=limits, token=token, hosts=hosts)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise SetupError(
            f"expected {host}:{port} to be free, found: {error.strerror}; take another with --port"
        ) from None
    with listener:
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_keep_alive=KEEP_ALIVE_S, server_header=False,
            limit_concurrency=MAX_CONNECTIONS, timeout_graceful_shutdown=5, h11_max_incomplete_event_size=32_768,
            http="h11", ws="none",
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listener])
