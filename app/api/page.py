"""GET /: a page to try the service by hand, and the files that it is made of."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.api.problems import NOT_FOUND, ApiError
from app.api.schemas import NoQuery

_TYPES = {
    "index.html": "text/html",
    "page.js": "text/javascript",
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
}

_HEADERS = {
    # Only our own files run, style and are asked; photographs and the camera are shown from memory.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    # Kept, but asked for again each time: page and script must never be of two releases.
    "Cache-Control": "no-cache",
}


def make_router() -> APIRouter:
    """The routes of the page, whose files are read now and once."""
    folder = files("app") / "page"
    contents = {name: (folder / name).read_bytes() for name in _TYPES}
    tags = {name: f'"{hashlib.sha256(content).hexdigest()[:32]}"' for name, content in contents.items()}
    # No part of the contract that the OpenAPI document describes.
    router = APIRouter(include_in_schema=False)

    def answer(request: Request, name: str) -> Response:
        headers = {**_HEADERS, "ETag": tags[name]}
        # A proxy that compresses makes the tag a weak one.
        if request.headers.get("if-none-match", "").removeprefix("W/") == tags[name]:
            return Response(status_code=304, headers=headers)
        return Response(contents[name], media_type=_TYPES[name], headers=headers)

    @router.get("/")
    async def page(request: Request, _: Annotated[NoQuery, Query()]) -> Response:
        return answer(request, "index.html")

    @router.get("/page/{name}")
    async def page_file(name: str, request: Request, _: Annotated[NoQuery, Query()]) -> Response:
        if name not in contents:
            raise ApiError(NOT_FOUND)
        return answer(request, name)

    return router
