"""The files of the page and of the reference; what they do in a browser is tested in tests/browser."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from agegender.settings import Settings
from fastapi import FastAPI
from helpers import Server, in_process

PAGE = {
    "/": "text/html; charset=utf-8",
    "/page/page.js": "text/javascript; charset=utf-8",
    "/page/style.css": "text/css; charset=utf-8",
    "/page/icon.svg": "image/svg+xml",
}
DOCS = {
    "/docs": "text/html; charset=utf-8",
    "/docs/docs.js": "text/javascript; charset=utf-8",
    "/docs/icon.svg": "image/svg+xml",
    "/docs/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "/docs/swagger-ui.css": "text/css; charset=utf-8",
}


@pytest.mark.parametrize("path", [*PAGE, *DOCS])
def test_a_file_has_its_type_and_is_revalidated(server: Server, path: str) -> None:
    answer = server.client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, {**PAGE, **DOCS}[path])
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["/", "/docs", "/page/page.js", "/docs/swagger-ui-bundle.js"])
def test_a_file_is_sent_once_and_then_only_when_it_has_changed(server: Server, path: str) -> None:
    first = server.client.get(path)
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}"):
        again = server.client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        if path in ("/", "/docs"):  # a browser replaces the policy that it has by that of a 304
            policy = "content-security-policy"
            assert again.headers[policy] == first.headers[policy]
    assert server.client.get(path, headers={"If-None-Match": '"older"'}).content == first.content


@pytest.mark.parametrize("path", ["/", "/docs", "/page/page.js"])
@pytest.mark.parametrize("asked", ["bytes=0-10", "bytes=0-1,3-4", "bytes=nonsense", "bytes=99999999-"])
def test_a_file_is_sent_whole_whatever_range_is_asked_for(server: Server, path: str, asked: str) -> None:
    answer = server.client.get(path, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, server.client.get(path).content)
    assert answer.headers["accept-ranges"] == "none"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_nothing_foreign_and_nothing_inline_may_run(server: Server, path: str) -> None:
    headers = server.client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert {policy[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}


@pytest.mark.parametrize(
    "path", ["/page/", "/page/page.py", "/page/..%2Fmain.py", "/page/%00", "/docs/page.py"]
)
def test_no_other_file_is_to_be_had(server: Server, path: str) -> None:
    answer = server.client.get(path)
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")


def test_the_page_can_be_turned_off(models_folder: Path) -> None:
    async def ask(_: FastAPI, client: httpx.AsyncClient) -> None:
        for path in (*PAGE, *DOCS):
            assert (await client.get(path)).status_code == (404 if path in PAGE else 200)

    in_process(Settings(models=models_folder, page=False), ask)
