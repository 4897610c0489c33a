"""The image in a request's body, read into memory and nowhere else, and never more of it than is allowed.

A body that is still arriving holds no place among the workers; what bounds such bodies is the memory that all of them
take up together.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.api.problems import (
    BODY_TOO_LARGE,
    IMAGE_MISSING,
    MEDIA_TYPE_UNSUPPORTED,
    MULTIPART_INVALID,
    ApiError,
)
from app.inference.pool import Overloaded

# Boundary lines and part headers around the image; real ones take some 200 bytes.
_MULTIPART_OVERHEAD = 16 * 1024


Take = Callable[[int], None]
"""Takes that many bytes of memory, or raises Overloaded."""


class ArrivalMemory:
    """At most `limit` bytes of requests that are still arriving."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    @contextmanager
    def for_one_request(self) -> Iterator[Take]:
        """What is taken in the `with` block is given back at its end."""
        own = 0

        def take(n: int) -> None:
            nonlocal own
            if self._taken + n > self._limit:
                raise Overloaded
            self._taken += n
            own += n

        try:
            yield take
        finally:
            self._taken -= own


async def read_image(request: Request, max_bytes: int, memory: ArrivalMemory) -> bytes:
    """The image's bytes, whether sent bare or as the multipart file `image`. Raises ApiError or Overloaded."""
    with memory.for_one_request() as take:
        return await _read(request, max_bytes, take)


async def _read(request: Request, max_bytes: int, take: Take) -> bytes:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return await _from_multipart(request, max_bytes, take)
    if media_type not in ("", "application/octet-stream") and not media_type.startswith("image/"):
        raise ApiError(MEDIA_TYPE_UNSUPPORTED)
    image = b"".join([chunk async for chunk in _limited(request, max_bytes, max_bytes, take)])
    if not image:
        raise ApiError(IMAGE_MISSING)
    return image


class _InMemoryParser(MultiPartParser):
    """Starlette's parser, but no part of an image ever goes to a temporary file."""

    spool_max_size = 0  # which means without limit


async def _from_multipart(request: Request, max_bytes: int, take: Take) -> bytes:
    chunks = _limited(request, max_bytes + _MULTIPART_OVERHEAD, max_bytes, take)
    try:
        form = await _InMemoryParser(request.headers, chunks, max_files=1, max_fields=0).parse()
    except MultiPartException:
        raise ApiError(MULTIPART_INVALID) from None
    upload = form.get("image")
    if not isinstance(upload, UploadFile):
        raise ApiError(MULTIPART_INVALID)
    image = await upload.read()
    if len(image) > max_bytes:
        raise _too_large(max_bytes)
    return image


async def _limited(request: Request, limit: int, max_bytes: int, take: Take) -> AsyncGenerator[bytes, None]:
    """The body as it comes; a 413 as soon as it is known to have more than `limit` bytes."""
    # The server has made sure that this is a number; a chunked body has none.
    received = 0
    if int(request.headers.get("content-length", 0)) > limit:
        raise _too_large(max_bytes)
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise _too_large(max_bytes)
        take(len(chunk))
        yield chunk


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(
        BODY_TOO_LARGE, f"The image has more than the {max_bytes} bytes that are allowed: send a smaller one."
    )
