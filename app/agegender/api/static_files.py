"""Static files with ETags: browsers revalidate them on each use, and download them only after a change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib.resources.abc import Traversable
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from agegender.api.query import NoQuery

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def file_router(files: Mapping[str, Traversable], headers: Mapping[str, str]) -> APIRouter:
    """Return a GET route for each path, which sends its file with `headers`. The files are read now, once."""
    # Not part of the API, so not in the OpenAPI document.
    router = APIRouter(include_in_schema=False)
    for path, file in files.items():
        router.get(path)(_sender(file.read_bytes(), _TYPES[PurePath(file.name).suffix], headers))
    return router


def _sender(content: bytes, media_type: str, headers: Mapping[str, str]) -> Callable[..., Any]:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    # no-cache means revalidate: a page and its script must come from the same release.
    headers = {**headers, "Cache-Control": "no-cache", "ETag": tag}

    async def send_file(request: Request, _: Annotated[NoQuery, Query()]) -> Response:
        # A proxy that compresses makes the tag weak.
        if request.headers.get("if-none-match", "").removeprefix("W/") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return send_file
