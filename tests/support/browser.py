"""A headless Chromium driven over its DevTools protocol: pages opened, looked at and questioned by tests.

Needs `chromium` (Debian: `make system`) and the `websockets` package; no driver
program. One browser serves a whole test session, each test opens its own page. A
`conftest.py` gets the fixture with ``from tests.support.browser import browser``.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.conftest import require_program

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--remote-debugging-address=127.0.0.1",
)
START_TIMEOUT_S = 60
CALL_TIMEOUT_S = 60


class BrowserError(RuntimeError):
    """The browser did not start, or refused a command."""


class Browser:
    """A running Chromium and the connection to it."""

    def __init__(self, url: str) -> None:
        self._socket: ClientConnection = connect(url, max_size=None, open_timeout=START_TIMEOUT_S, compression=None)
        self._next_id = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer; events that arrive meanwhile are kept."""
        self._next_id += 1
        message: dict[str, Any] = {"id": self._next_id, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        self._socket.send(json.dumps(message))
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while True:
            answer = self._receive(deadline, method)
            if answer.get("id") == self._next_id:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def wait_for(self, method: str, session: str) -> dict[str, Any]:
        """Wait for an event of a page that has not been taken yet."""
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while True:
            for i, event in enumerate(self.events):
                if event.get("method") == method and event.get("sessionId") == session:
                    return self.events.pop(i)
            self._receive(deadline, method)

    def _receive(self, deadline: float, what: str) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(self._socket.recv(timeout=max(0.1, deadline - time.monotonic())))
        except TimeoutError as err:
            raise BrowserError(f"no answer from the browser within {CALL_TIMEOUT_S} s: {what}") from err
        if "id" not in answer:
            self.events.append(answer)
        return answer

    @contextmanager
    def page(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Page]:
        """Open an empty page of a given size and colour scheme; closed at the end."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        page.set_scheme(dark=dark)
        try:
            yield page
        finally:
            self.call("Target.closeTarget", targetId=target)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command to this page."""
        return self._browser.call(method, self._session, **params)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the viewport; below 500 px the page is shown as on a phone."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def set_scheme(self, *, dark: bool) -> None:
        """Set what `prefers-color-scheme` answers."""
        value = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def open(self, address: str | Path) -> None:
        """Load a file or an address and wait for its load event."""
        url = address.resolve().as_uri() if isinstance(address, Path) else address
        self.call("Page.navigate", url=url)
        self._browser.wait_for("Page.loadEventFired", self._session)

    def evaluate(self, expression: str) -> Any:
        """Run JavaScript and return its value; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press Tab, Enter or another named key."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32,
                 "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}  # fmt: skip
        common = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0), "modifiers": 8 if shift else 0}
        text = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def screenshot(self, path: Path, *, full: bool = False) -> Path:
        """Write a PNG of the viewport, or of the whole page."""
        params: dict[str, Any] = {}
        if full:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            params = {"captureBeyondViewport": True, "clip": {"x": 0, "y": 0, "scale": 1, **_size(size)}}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **params)["data"]))
        return path

    def problems(self) -> list[str]:
        """Return console errors and warnings, uncaught exceptions and failed requests so far."""
        self.evaluate("1")  # whatever was sent before this answer has arrived by now
        found = []
        for event in self._mine():
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(f"exception: {params['exceptionDetails'].get('text')}")
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(f"{params['entry']['level']}: {params['entry']['text']}")
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(f"console {params['type']}: {params['args']}")
            elif event["method"] == "Network.loadingFailed":
                found.append(f"request failed: {params.get('errorText')} {params.get('blockedReason', '')}")
        return found

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for, `data:` left out."""
        self.evaluate("1")
        urls = [e["params"]["request"]["url"] for e in self._mine() if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]

    def _mine(self) -> list[dict[str, Any]]:
        return [event for event in self._browser.events if event.get("sessionId") == self._session]


def _size(size: dict[str, Any]) -> dict[str, Any]:
    return {"width": size["width"], "height": size["height"]}


@contextmanager
def running_browser(program: str) -> Iterator[Browser]:
    """Start Chromium with an empty profile on a free port of loopback; it is gone, with its profile, at the end.

    Raises
    ------
    BrowserError
        If it does not come up within a minute.
    """
    with tempfile.TemporaryDirectory(prefix="scale-chromium-", ignore_cleanup_errors=True) as profile:
        with (Path(profile) / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            browser = Browser(_address(process, Path(profile)))
            try:
                yield browser
            finally:
                browser.close()
        finally:
            _stop(process)


def _address(process: subprocess.Popen[bytes], profile: Path) -> str:
    """Read the port that Chromium picked and wrote into its profile."""
    deadline = time.monotonic() + START_TIMEOUT_S
    port_file = profile / "DevToolsActivePort"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        lines = port_file.read_text().split() if port_file.is_file() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)  # the file appears without any signal that could be waited for
    log = (profile / "log").read_text(errors="replace")[-2000:]
    raise BrowserError(f"expected {process.args} to open its debugging port, found exit code {process.poll()}: {log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    # Chromium is a family of processes; they share the session that was made for it.
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=10)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait(timeout=10)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One headless Chromium for all page tests of a session; they carry the mark `service`."""
    with running_browser(require_program("chromium", "chromium-browser", "google-chrome")) as running:
        yield running
