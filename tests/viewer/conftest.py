"""A server of the viewer in a thread, and a real browser."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

WAIT_MS = 120_000
"""How long a page may take; a busy machine is slow."""


class Viewing:
    """A server as `stapo view` runs it, but for the signals, which need the main thread."""

    def __init__(self, *tops: Path, token: str | None = None) -> None:
        from stapo.serving.server import Limits, listen, server_of
        from stapo.viewer.app import create_app
        from stapo.viewer.catalog import Catalog

        self.listening = listen("127.0.0.1", 0, token=token)
        self.port = self.listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.server = server_of(create_app(Catalog(tops), token), Limits())
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]}, daemon=True)
        self.thread.start()

    def raw(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer to a path that is sent as it stands."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, body

    def api(self, path: str, **query: Any) -> Any:
        """The JSON of an answer; the test fails where it is a refusal."""
        status, _, body = self.raw(f"/api/{path}?{urlencode(query)}")
        assert status == 200, body
        return json.loads(body)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(300)
        self.listening.close()


@pytest.fixture
def view() -> Iterator[Any]:
    """Starts servers; they stop after the test."""
    running: list[Viewing] = []

    def start(*tops: Path, token: str | None = None) -> Viewing:
        running.append(Viewing(*tops, token=token))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture
def runs(toy_run: Path, tmp_path: Path) -> Path:
    """A folder with a copy of a finished run, to be changed."""
    shutil.copytree(toy_run, tmp_path / "runs" / "toy")
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A Chromium of this machine, driven by Playwright, whose event loop would be in the way of other files' tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra dev has it)")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page that fails its test where the page logs an error: a script that breaks, a policy that is violated."""
    context = chromium.new_context()
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.said = said
    yield page
    context.close()
    assert said == []


@pytest.fixture
def until() -> Any:
    """Waits until an expression is true in the page; Playwright's own way is an eval, which the policy forbids."""

    def wait(page: Any, expression: str) -> None:
        end = time.monotonic() + WAIT_MS / 1000
        while not page.evaluate(expression):
            assert time.monotonic() < end, expression
            page.wait_for_timeout(50)

    return wait
