"""The documentation, and the module that it shows, in a browser that sees nothing but this machine."""

from __future__ import annotations

import contextlib
import http.server
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agegender.settings import Settings
from helpers import ASTRONAUT, ROOT, web_server, without_timings
from local_service import LocalService

pytest.importorskip("playwright.sync_api", reason="needs Playwright: it is in requirements/dev.txt")
from playwright.sync_api import BrowserContext, expect


@contextlib.contextmanager
def published(folder: Path) -> Iterator[str]:
    """Address at which the files of `folder` are served."""

    def answer(request: http.server.SimpleHTTPRequestHandler) -> None:
        request.directory = str(folder)
        http.server.SimpleHTTPRequestHandler.do_GET(request)

    with web_server(answer) as address:
        yield address


def test_every_page_fits_a_telephone_and_asks_nobody_else(
    new_context: Callable[..., BrowserContext], site: Path
) -> None:
    page = new_context(viewport={"width": 390, "height": 800}).new_page()
    with published(site) as address:
        for file in sorted(site.rglob("*.html")):
            page.goto(f"{address}/{file.relative_to(site)}")
            expect(page.get_by_role("heading", level=1).first).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), file
            for image in page.get_by_role("article").get_by_role("img").all():
                image.scroll_into_view_if_needed()
                assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100


def test_the_module_of_the_examples_asks_from_a_page_of_another_origin(
    new_context: Callable[..., BrowserContext], models_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text("<!doctype html><title>Test</title><link rel=icon href=data:,>")
    (tmp_path / "agegender.mjs").symlink_to(ROOT / "examples/agegender.mjs")
    (tmp_path / "photo.jpg").symlink_to(ASTRONAUT)
    with (
        published(tmp_path) as address,
        LocalService(Settings(models=models_folder, workers=1, cors_origins=address)) as service,
    ):
        page = new_context().new_page()
        page.goto(address)
        answer = page.evaluate(
            """async (service) => {
                const { predict } = await import("./agegender.mjs");
                return predict(await (await fetch("photo.jpg")).blob(), service);
            }""",
            service.url,
        )
        assert len(answer["faces"]) == 1
        served = service.predict(ASTRONAUT.read_bytes()).json()
        assert without_timings(answer) == without_timings(served)
        message = page.evaluate(
            """async (service) => {
                const { predict } = await import("./agegender.mjs");
                return predict(new Blob(["no photograph"]), service).catch((error) => error.message);
            }""",
            service.url,
        )
        assert "Send a JPEG, PNG, WebP, HEIC, AVIF, GIF, TIFF or BMP file." in message
