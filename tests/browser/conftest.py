from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from helpers import PATIENCE, Server
from screen import NAME_OF_LOOPBACK

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page


# Not for the session: while it is there, an event loop runs in this thread, and others' tests start their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs Playwright: it is in requirements/dev.txt"
    )
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs a program `chromium`, such as Debian's package of that name")
    playwright.expect.set_options(timeout=1000 * PATIENCE)
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=chromium,
            args=[
                "--use-fake-device-for-media-stream",
                f"--host-resolver-rules=MAP {NAME_OF_LOOPBACK} 127.0.0.1",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def new_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Makes a browser with its own settings, and in the end asserts that its pages broke no rule.

    That is, no script failed, the Content-Security-Policy had nothing to refuse, and nobody but the page's own
    server was asked for anything.
    """
    contexts: list[BrowserContext] = []
    complaints: list[str] = []
    asked: set[str] = set()

    def make(**options: Any) -> BrowserContext:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(1000 * PATIENCE)
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        context.on("console", lambda message: complaints.append(message.text))
        context.on("request", lambda request: asked.add(request.url))
        contexts.append(context)
        return context

    yield make
    for context in contexts:
        context.close()
    # The browser notes each answer that is a problem, and Swagger UI that files of an array have no field of their own:
    # it takes that of a single file.
    notes = ("Failed to load resource", "Could not find component: JsonSchema_string_binary")
    assert [text for text in complaints if not text.startswith(notes)] == []
    hosts = {urlsplit(url.removeprefix("blob:")).hostname for url in asked}
    assert hosts <= {"127.0.0.1", NAME_OF_LOOPBACK}


@pytest.fixture
def open_page(new_context: Callable[..., BrowserContext]) -> Callable[..., Page]:
    """Opens the page of a server in a browser with those settings."""

    def open_it(server: Server, **options: Any) -> Page:
        page = new_context(**options).new_page()
        page.goto(server.url)
        return page

    return open_it


@pytest.fixture
def page(open_page: Callable[..., Page], server: Server) -> Page:
    """The page on a desk, in light colours."""
    return open_page(server)
