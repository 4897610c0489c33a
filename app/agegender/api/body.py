"""The images in a request's body, read into memory and nowhere else, and never more of it than is allowed.

A body that is still arriving holds no place among the workers; what bounds such bodies is the memory that all of them
take up together.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import replace

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from agegender.api.problems import (
    BODY_TOO_LARGE,
    IMAGE_MISSING,
    MEDIA_TYPE_UNSUPPORTED,
    MULTIPART_INVALID,
    ApiError,
    Kind,
)
from agegender.inference.pool import Overloaded

MAX_BATCH_IMAGES = 32

# In words for a batch.
BATCH_INVALID = replace(
    MULTIPART_INVALID,
    example=f"The multipart body must hold 1 to {MAX_BATCH_IMAGES} file parts named images and nothing else, as "
    "`curl -F images=@one.jpg -F images=@two.jpg` sends it.",
)
BATCH_TOO_LARGE = replace(
    BODY_TOO_LARGE,
    example="The batch has more than the 41943040 bytes that are allowed: send fewer images at a time.",
)
BATCH_NOT_MULTIPART = replace(
    MEDIA_TYPE_UNSUPPORTED,
    example="The body of a batch must be multipart/form-data with file parts named images; POST /predict takes a "
    "single image as it is.",
)

# Boundary lines and part headers around the image; real ones take some 200 bytes.
MULTIPART_OVERHEAD = 16 * 1024


class ArrivalMemory:
    """At most `limit` bytes of requests that are still arriving.

    Those of a batch count until its images have been looked at, and all batches together have at most half of it: a
    single photograph finds room beside them. `refused` counts the requests for which there was none.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.taken_by_batches = 0
        self.refused = 0

    @contextmanager
    def for_one_request(self, *, batch: bool = False) -> Iterator[Share]:
        """What is taken in the `with` block is given back at its end."""
        share = Share(self, batch)
        try:
            yield share
        finally:
            share.give_back(share.taken)


class Share:
    """What one request takes of the memory."""

    def __init__(self, memory: ArrivalMemory, batch: bool) -> None:
        self.taken = 0
        self._memory = memory
        self._batch = batch

    def take(self, n: int) -> None:
        """Take `n` bytes more, or raise Overloaded."""
        memory = self._memory
        if memory.taken + n > memory.limit or (
            self._batch and memory.taken_by_batches + n > memory.limit // 2
        ):
            memory.refused += 1
            raise Overloaded
        self._add(n)

    def give_back(self, n: int) -> None:
        """Give back `n` bytes, or all where there are no more."""
        self._add(-min(n, self.taken))

    def _add(self, n: int) -> None:
        self.taken += n
        self._memory.taken += n
        if self._batch:
            self._memory.taken_by_batches += n


async def read_image(request: Request, max_bytes: int, memory: ArrivalMemory) -> bytes:
    """The image's bytes, whether sent bare or as the multipart file `image`. Raises ApiError or Overloaded."""
    with memory.for_one_request() as share:
        return await _read(request, max_bytes, share)


async def read_batch(request: Request, max_batch_bytes: int, share: Share) -> list[UploadFile]:
    """The multipart files `images`, in the order sent; whatever is in them. Raises ApiError or Overloaded."""
    if _media_type(request) != "multipart/form-data":
        raise ApiError(BATCH_NOT_MULTIPART)
    chunks = _limited(request, max_batch_bytes, _batch_too_large(max_batch_bytes), share)
    form = await _parse(request, chunks, MAX_BATCH_IMAGES, BATCH_INVALID)
    images = [part for name, part in form.multi_items() if name == "images" and isinstance(part, UploadFile)]
    if not images or len(images) < len(form.multi_items()):
        raise ApiError(BATCH_INVALID)
    return images


def image_too_large(max_bytes: int) -> ApiError:
    """What an image of more bytes than that is answered with."""
    return ApiError(
        BODY_TOO_LARGE, f"The image has more than the {max_bytes} bytes that are allowed: send a smaller one."
    )


def _batch_too_large(max_batch_bytes: int) -> ApiError:
    return ApiError(
        BATCH_TOO_LARGE,
        f"The batch has more than the {max_batch_bytes} bytes that are allowed: send fewer images at a time.",
    )


async def _read(request: Request, max_bytes: int, share: Share) -> bytes:
    media_type = _media_type(request)
    too_large = image_too_large(max_bytes)
    if media_type == "multipart/form-data":
        chunks = _limited(request, max_bytes + MULTIPART_OVERHEAD, too_large, share)
        form = await _parse(request, chunks, 1, MULTIPART_INVALID)
        upload = form.get("image")
        if not isinstance(upload, UploadFile):
            raise ApiError(MULTIPART_INVALID)
        image = await upload.read()
        if len(image) > max_bytes:
            raise too_large
        return image
    if media_type not in ("", "application/octet-stream") and not media_type.startswith("image/"):
        raise ApiError(MEDIA_TYPE_UNSUPPORTED)
    image = b"".join([chunk async for chunk in _limited(request, max_bytes, too_large, share)])
    if not image:
        raise ApiError(IMAGE_MISSING)
    return image


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class _InMemoryParser(MultiPartParser):
    """Starlette's parser, but no part of an image ever goes to a temporary file."""

    spool_max_size = 0  # which means without limit
    ended = False

    def on_end(self) -> None:
        self.ended = True


async def _parse(
    request: Request, chunks: AsyncGenerator[bytes, None], max_files: int, invalid: Kind
) -> FormData:
    """The form, which has no fields but at most `max_files` files. Raises ApiError, of the kind `invalid`."""
    parser = _InMemoryParser(request.headers, chunks, max_files=max_files, max_fields=0)
    try:
        form = await parser.parse()
    except (MultiPartException, UnicodeError):  # the latter where names are in a charset that none can be in
        raise ApiError(invalid) from None
    if not parser.ended:  # a part that was cut short is not in the form
        raise ApiError(invalid)
    return form


async def _limited(
    request: Request, limit: int, too_large: ApiError, share: Share
) -> AsyncGenerator[bytes, None]:
    """The body as it comes; `too_large` as soon as it is known to have more than `limit` bytes."""
    # The server has made sure that this is a number; a chunked body has none.
    received = 0
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise too_large
        share.take(len(chunk))
        yield chunk
