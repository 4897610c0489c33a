"""GET /, a page to try the service by hand, GET /docs, the interactive reference, and GET /openapi.json.

The pages load only own files.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from agegender.api.query import NoQuery
from agegender.api.static_files import file_router

_FOLDER = files("agegender") / "page"
_SWAGGER_UI = files("fastapi_offline") / "static"

_PAGE = {
    "/": _FOLDER / "index.html",
    "/page/page.js": _FOLDER / "page.js",
    "/page/style.css": _FOLDER / "style.css",
    "/page/icon.svg": _FOLDER / "icon.svg",
}
_DOCS = {
    "/docs": _FOLDER / "docs.html",
    "/docs/docs.js": _FOLDER / "docs.js",
    "/docs/icon.svg": _FOLDER / "icon.svg",
    "/docs/swagger-ui-bundle.js": _SWAGGER_UI / "swagger-ui-bundle.js",
    "/docs/swagger-ui.css": _SWAGGER_UI / "swagger-ui.css",
}

# Scripts, styles and connections: only from and to this service.
_SELF_ONLY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
)


def page_router() -> APIRouter:
    """Return the routes of the page. It shows photographs and the camera as `blob:` URLs."""
    return file_router(
        _PAGE,
        {
            "Content-Security-Policy": _SELF_ONLY + "img-src 'self' blob:; media-src blob:",
            "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
        },
    )


def docs_router() -> APIRouter:
    """Return the routes of the interactive reference: Swagger UI, whose icons are `data:` URLs, and its document."""
    router = file_router(_DOCS, {"Content-Security-Policy": _SELF_ONLY + "img-src 'self' data:"})
    router.get("/openapi.json")(_openapi_document)
    return router


async def _openapi_document(request: Request, _: Annotated[NoQuery, Query()]) -> JSONResponse:
    return JSONResponse(request.app.openapi())
