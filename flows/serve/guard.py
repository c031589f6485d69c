"""Who may ask, and what a browser may do with the answer: hosts, token, headers. One ASGI layer around everything."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
from collections.abc import Iterable
from http.cookies import SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.errors import InvalidInputError

COOKIE = "scale_session"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"content-security-policy": POLICY.encode(),
}
"""Of every answer that does not set its own."""
_METHODS = frozenset({"GET", "HEAD", "POST"})
"""POST asks too (a question that is a file); nothing here writes."""
_OPEN_PATHS = frozenset({"/healthz"})


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, token: str | None) -> None:
    """Refuse to serve beyond this machine without a token.

    Raises
    ------
    InvalidInputError
        If `host` is not loopback and there is no token of at least 16 characters.
    """
    if token is not None and len(token) < 16:
        raise InvalidInputError(
            "expected a token of at least 16 characters, found a shorter one; make one with "
            "python -c 'import secrets; print(secrets.token_urlsafe(24))'"
        )
    if token is None and not is_loopback(host):
        raise InvalidInputError(
            f"expected a token for an address beyond this machine, found host {host} without one; set "
            "SCALE_SERVE_TOKEN, or serve on 127.0.0.1 and forward the port"
        )


class Guard:
    """Checks host and token, and adds the headers that fence a page in.

    Parameters
    ----------
    app : ASGI application
    token : str or None
        Asked for as ``Authorization: Bearer``; a page opened with ``?token=`` keeps a cookie instead.
    hosts : iterable of str
        Names that a browser may call this server by; others are refused, or a page elsewhere could rebind its name to
        this address and read the store. Empty: any name (behind a token).
    """

    def __init__(self, app: ASGIApp, *, token: str | None, hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._token = token
        self._session = hashlib.sha256(f"scale-session:{token}".encode()).hexdigest() if token else ""
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if scope["method"] not in _METHODS:
            await _refuse(send, 405, "expected GET, HEAD or a question by POST; this service is read-only")
        elif self._hosts and not self._knows(headers.get(b"host", "")):
            await _refuse(send, 421, "expected a request for this server's own name, found another Host")
        elif scope["method"] == "POST" and not _is_own(headers):
            await _refuse(send, 403, "expected a request of this page or of a program, found one of another site")
        elif self._token is None or scope["path"] in _OPEN_PATHS:
            await self._app(scope, receive, _with_headers(send))
        elif scope["method"] == "GET" and (query := self._without_token(scope)) is not None:
            await self._keep(scope, send, query)
        elif self._is_allowed(headers):
            await self._app(scope, receive, _with_headers(send))
        else:
            await _refuse(
                send, 401, "expected a token: Authorization: Bearer TOKEN, or open the page with ?token=TOKEN"
            )

    def _knows(self, host: str) -> bool:
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        return name in self._hosts or is_loopback(name)

    def _is_allowed(self, headers: dict[bytes, str]) -> bool:
        scheme, _, given = headers.get(b"authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), str(self._token).encode()):
            return True
        try:
            cookie = SimpleCookie(headers.get(b"cookie", "")).get(COOKIE)
        except Exception:  # a cookie that is none
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._session.encode())

    def _without_token(self, scope: Scope) -> list[tuple[str, str]] | None:
        """Return the query without its token where the token is right."""
        pairs = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        tokens = [value for name, value in pairs if name == "token"]
        if len(tokens) == 1 and hmac.compare_digest(tokens[0].encode(), str(self._token).encode()):
            return [pair for pair in pairs if pair[0] != "token"]
        return None

    async def _keep(self, scope: Scope, send: Send, query: list[tuple[str, str]]) -> None:
        """Turn a token in an address into a cookie, so that it stands in no history and no log from here on."""
        raw = scope.get("raw_path") or b"/"
        # Two slashes at the start would name another host.
        place = "/" + raw.split(b"?")[0].decode("latin-1").lstrip("/") + (f"?{urlencode(query)}" if query else "")
        cookie = f"{COOKIE}={self._session}; Path=/; HttpOnly; SameSite=Strict"
        lines = [(b"location", place.encode("latin-1")), (b"set-cookie", cookie.encode()), *_HEADERS.items()]
        await send({"type": "http.response.start", "status": 303, "headers": lines})
        await send({"type": "http.response.body", "body": b""})


def _is_own(headers: dict[bytes, str]) -> bool:
    """Whether a POST comes from our page or from no page at all."""
    return headers.get(b"sec-fetch-site", "none") in ("same-origin", "none")


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            extra = [(name, value) for name, value in _HEADERS.items() if name not in present]
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return sending


async def _refuse(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": {"type": "Refused", "message": message}}).encode()
    lines = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *_HEADERS.items()]
    if status == 401:
        lines.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
