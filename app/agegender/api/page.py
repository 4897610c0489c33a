"""GET /, a page to try the service by hand, GET /docs, the interactive reference, and GET /openapi.json.

The pages load only own files.
"""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from agegender.api.query import NoQuery

_FOLDER = Path(__file__).parents[1] / "page"

# Scripts, styles and connections: only from and to this service.
_SELF_ONLY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
)
# no-cache means revalidate: a page and its script must come from the same release.
_REVALIDATE = {"Cache-Control": "no-cache"}
# The page shows photographs and the camera as `blob:` URLs, Swagger UI its icons as `data:` URLs.
_PAGE_HEADERS = {
    "Content-Security-Policy": _SELF_ONLY + "img-src 'self' blob:; media-src blob:",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    **_REVALIDATE,
}
_DOCS_HEADERS = {"Content-Security-Policy": _SELF_ONLY + "img-src 'self' data:", **_REVALIDATE}

mimetypes.add_type("text/javascript", ".js")  # a registry of Windows may say otherwise


class _Files(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_REVALIDATE)
        return response


def add_page(app: FastAPI) -> None:
    """Add the page and its files."""

    @app.get("/", include_in_schema=False)
    async def page(_: Annotated[NoQuery, Query()]) -> FileResponse:
        return FileResponse(_FOLDER / "index.html", headers=_PAGE_HEADERS)

    app.mount("/page", _Files(packages=[("agegender", "page")]))


def add_docs(app: FastAPI) -> None:
    """Add the interactive reference, its files and the OpenAPI document that it shows."""

    @app.get("/docs", include_in_schema=False)
    async def docs(_: Annotated[NoQuery, Query()]) -> FileResponse:
        return FileResponse(_FOLDER / "docs.html", headers=_DOCS_HEADERS)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request, _: Annotated[NoQuery, Query()]) -> JSONResponse:
        return JSONResponse(request.app.openapi())

    app.mount("/docs", _Files(packages=[("agegender", "page"), ("fastapi_offline", "static")]))
