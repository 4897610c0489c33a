"""GET /, a page to try the service by hand, GET /docs, the interactive reference, and GET /openapi.json.

The pages load only own files.
"""

from __future__ import annotations

import mimetypes
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

from agegender.api.query import NoQuery

# Scripts, styles and connections: only from and to this service.
_SELF_ONLY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
)
# no-cache means revalidate: a page and its script must come from the same release.
_REVALIDATE = {"Cache-Control": "no-cache", "Accept-Ranges": "none"}
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

    async def page(self, name: str, request: Request, headers: dict[str, str]) -> Response:
        response = await self.get_response(name, request.scope)
        response.headers.update(headers)  # also of a 304: a browser takes them over
        return response


def add_page(app: FastAPI) -> None:
    """Add the page and its files."""

    files = _Files(packages=[("agegender", "page")])

    @app.get("/", include_in_schema=False)
    async def page(request: Request, _: Annotated[NoQuery, Query()]) -> Response:
        return await files.page("index.html", request, _PAGE_HEADERS)

    app.mount("/page", files)


def add_docs(app: FastAPI) -> None:
    """Add the interactive reference, its files and the OpenAPI document that it shows."""

    files = _Files(packages=[("agegender", "page"), ("fastapi_offline", "static")])

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request, _: Annotated[NoQuery, Query()]) -> Response:
        return await files.page("docs.html", request, _DOCS_HEADERS)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request, _: Annotated[NoQuery, Query()]) -> JSONResponse:
        return JSONResponse(request.app.openapi())

    app.mount("/docs", files)
