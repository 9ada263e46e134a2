"""A headless Chromium for tests, by its DevTools protocol over pipes; no package is needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page. ``errors``: exceptions, refused requests and console messages so far."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = os.fdopen(send, "wb"), os.fdopen(receive, "rb")
        self._number, self._rest = 0, b""
        self._session, self._loads = "", 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Result of a method of the protocol; events that come first are noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._send.write(json.dumps(message).encode() + b"\0")
        self._send.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = self._receive.read1(65536)  # type: ignore[attr-defined]
            assert data, "the browser ended"
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if message.get("method") in (
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
        ):
            self.errors.append(json.dumps(message["params"]))
        self._loads += message.get("method") == "Page.loadEventFired"
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        return message

    def open(self, url: str, width: int = 1400, height: int = 900) -> None:
        """Load a page and wait for it."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        for address in ("about:blank", url):  # another fragment alone would load nothing
            loads = self._loads
            self.call("Page.navigate", url=address)
            while self._loads == loads:
                self._next()

    def value(self, expression: str) -> Any:
        """Value of an expression of JavaScript in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def drag(self, x: float, y: float, to_x: float | None = None) -> None:
        """Press at a point of the window and release there, or at another x."""
        for kind, at in (
            ("mouseMoved", x),
            ("mousePressed", x),
            ("mouseMoved", to_x or x),
            ("mouseReleased", to_x or x),
        ):
            self.call("Input.dispatchMouseEvent", type=kind, x=at, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        """The window as a PNG file."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own."""
    assert PROGRAM is not None
    down_read, down_write = os.pipe()
    up_read, up_write = os.pipe()
    # Chromium reads from 3 and writes to 4.
    command = f'exec "$0" "$@" 3<&{down_read} 4>&{up_write}'
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
    process = subprocess.Popen(
        ["bash", "-c", command, PROGRAM, *options, f"--user-data-dir={profile}"],
        pass_fds=(down_read, up_write),
        stderr=subprocess.DEVNULL,
    )
    os.close(down_read)
    os.close(up_write)
    try:
        yield Browser(down_write, up_read)
    finally:
        process.terminate()
        process.wait(20)
