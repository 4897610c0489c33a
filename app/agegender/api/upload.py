"""Read the images of a request body: into memory only, and no more bytes than allowed."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from fastapi import Request
from pydantic_core import from_json

from agegender.api.arrival_memory import ArrivalMemory, Share
from agegender.api.multipart import read_parts
from agegender.api.problems import (
    BODY_TOO_LARGE,
    IMAGE_MISSING,
    JSON_INVALID,
    MEDIA_TYPE_UNSUPPORTED,
    MULTIPART_INVALID,
    ApiError,
)

MAX_BATCH_IMAGES = 32

# What to send, for error messages.
_IMAGE_PART = (
    "send one image in a part named image, as `curl -F image=@photo.jpg` does, or several images to POST "
    "/predict/batch"
)
_IMAGES_PARTS = (
    f"send 1 to {MAX_BATCH_IMAGES} parts named images, as `curl -F images=@one.jpg -F images=@two.jpg` does"
)
_IMAGE_FIELD = 'send {"image": "..."}, with the image as base64 or a data URL'
_IMAGES_FIELD = 'send {"images": ["...", "..."]}, with each image as base64 or a data URL'

# The same kinds of problem, with examples for batches.
BATCH_INVALID = replace(
    MULTIPART_INVALID,
    example=f"The part photo is not expected: {_IMAGES_PARTS}. Options go into the query.",
)
BATCH_JSON_INVALID = replace(JSON_INVALID, example=f"The field images is missing: {_IMAGES_FIELD}.")
BATCH_TOO_LARGE = replace(
    BODY_TOO_LARGE,
    example="The batch is larger than the limit of 41943040 bytes: send fewer images at a time.",
)
BATCH_TYPE_UNSUPPORTED = replace(
    MEDIA_TYPE_UNSUPPORTED,
    example="The body of a batch must be multipart/form-data with parts named images, or application/json. Send a "
    "bare image to POST /predict.",
)

_OVERHEAD = 16 * 1024
"""Bytes allowed for what surrounds an image: boundaries and headers of parts, or JSON. Usually it takes about 200."""

_BARE = ("", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded")
"""Content types of a bare image, besides image/*. `curl --data-binary` sends the last one."""

_FROM_BASE64URL = bytes.maketrans(b"-_", b"+/")

_MOST_JSON_VALUES = 1000
"""Far more than a batch needs. Millions of empty lists would take much more memory than their text."""


class SentImage:
    """An image as it was sent: the bytes of a file, or text (base64 or a data URL)."""

    def __init__(self, data: bytes | str, filename: str = "") -> None:
        self.filename = filename
        self.size = len(data)
        self._data: bytes | str = data

    def take(self, max_bytes: int) -> bytes:
        """Return the bytes of the file and forget them. Raises ApiError."""
        data, self._data = self._data, b""
        content = _from_text(data) if isinstance(data, str) else data
        if len(content) > max_bytes:
            raise _too_large(max_bytes)
        return content


async def read_image(request: Request, max_bytes: int, memory: ArrivalMemory) -> SentImage:
    """Read one image: a bare body, the multipart part `image` or the JSON field `image`.

    Raises ApiError or Overloaded.
    """
    media_type = _media_type(request)
    too_large = _too_large(max_bytes)
    with memory.for_one_request() as share:
        if media_type == "multipart/form-data":
            chunks = _limited(request, max_bytes + _OVERHEAD, too_large, share)
            (image,) = await _read_form(request, chunks, "image", 1, _IMAGE_PART)
            return image
        if media_type == "application/json":
            chunks = _limited(request, largest_body(max_bytes), too_large, share)
            text = _json_field(await _join(chunks), "image", _IMAGE_FIELD)
            if not isinstance(text, str):
                raise ApiError(JSON_INVALID, f"The field image must be a string: {_IMAGE_FIELD}.")
            return SentImage(text)
        if media_type not in _BARE and not media_type.startswith("image/"):
            raise ApiError(MEDIA_TYPE_UNSUPPORTED)
        body = await _join(_limited(request, max_bytes, too_large, share))
        if not body:
            raise ApiError(IMAGE_MISSING)
        return SentImage(body)


async def read_batch(request: Request, max_batch_bytes: int, share: Share) -> list[SentImage]:
    """Read the multipart parts `images` or the JSON list `images`, in the order sent.

    Raises ApiError or Overloaded.
    """
    media_type = _media_type(request)
    too_large = ApiError(
        BATCH_TOO_LARGE,
        f"The batch is larger than the limit of {max_batch_bytes} bytes: send fewer images at a time.",
    )
    if media_type == "multipart/form-data":
        chunks = _limited(request, max_batch_bytes, too_large, share)
        return await _read_form(request, chunks, "images", MAX_BATCH_IMAGES, _IMAGES_PARTS)
    if media_type != "application/json":
        raise ApiError(BATCH_TYPE_UNSUPPORTED)
    chunks = _limited(request, largest_body(max_batch_bytes), too_large, share)
    texts = _json_field(await _join(chunks), "images", _IMAGES_FIELD)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ApiError(JSON_INVALID, f"The field images must be a list of strings: {_IMAGES_FIELD}.")
    if not 1 <= len(texts) <= MAX_BATCH_IMAGES:
        raise ApiError(
            JSON_INVALID,
            f"The list images has {len(texts)} entries: send 1 to {MAX_BATCH_IMAGES} images at a time.",
        )
    return [SentImage(text) for text in texts]


async def _read_form(
    request: Request, chunks: AsyncGenerator[bytes, None], name: str, most: int, expected: str
) -> list[SentImage]:
    """Read a form of 1 to `most` parts, all called `name`. Raises ApiError; `expected` says what to send."""
    images: list[SentImage] = []
    async for part in read_parts(request.headers["content-type"], chunks):
        if part.name != name:
            raise ApiError(
                MULTIPART_INVALID,
                f"The part {_shown(part.name)} is not expected: {expected}. Options go into the query.",
            )
        if len(images) == most:
            raise ApiError(MULTIPART_INVALID, f"The form has too many images: {expected}.")
        images.append(SentImage(bytes(part.content), part.filename))
    if not images:
        raise ApiError(MULTIPART_INVALID, f"The form is empty: {expected}.")
    return images


def _shown(name: str) -> str:
    """Shorten a name from the request for an error message."""
    return name[:40].strip() or '""'


def _json_field(body: bytes, name: str, expected: str) -> Any:
    """Return the value of `name`, the only field of a JSON object. Raises ApiError; `expected` says what to send."""
    if sum(map(body.count, (b"[", b"{", b","))) > _MOST_JSON_VALUES:
        raise ApiError(JSON_INVALID, f"The body has too many values: {expected}.")
    try:
        document = from_json(body)
    except ValueError:
        raise ApiError(JSON_INVALID, f"The body is not valid JSON: {expected}.") from None
    if not isinstance(document, dict):
        raise ApiError(JSON_INVALID, f"The body is not a JSON object: {expected}.")
    for field in document:
        if field != name:
            raise ApiError(
                JSON_INVALID,
                f"The field {_shown(field)} is not expected: {expected}. Options go into the query.",
            )
    if name not in document:
        raise ApiError(JSON_INVALID, f"The field {name} is missing: {expected}.")
    return document[name]


def _from_text(text: str) -> bytes:
    """Decode base64 or a data URL (RFC 2397). Raises ApiError."""
    if text[:8].lower().startswith(("http://", "https://")):
        raise ApiError(
            JSON_INVALID,
            "The service does not fetch images from URLs: send the image itself, as base64 or a data URL.",
        )
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise ApiError(
                JSON_INVALID, "The data URL is not in base64: begin it with `data:image/jpeg;base64,`."
            )
    try:
        # Callers also send base64url, line breaks, and base64 without padding.
        data = text.encode("ascii").translate(_FROM_BASE64URL, b" \r\n\t").rstrip(b"=")
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ApiError(
            JSON_INVALID,
            "The image is not valid base64: encode the bytes of the file, or send them without JSON.",
        ) from None


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(
        BODY_TOO_LARGE, f"The image is larger than the limit of {max_bytes} bytes: send a smaller one."
    )


def largest_body(size: int) -> int:
    """Return the largest size of a body whose images have `size` bytes: that of base64 in JSON."""
    return (size + 2) // 3 * 4 + _OVERHEAD


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _join(chunks: AsyncGenerator[bytes, None]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def _limited(
    request: Request, limit: int, too_large: ApiError, share: Share
) -> AsyncGenerator[bytes, None]:
    """Yield the body as it arrives; raise `too_large` as soon as it is known to be longer than `limit` bytes."""
    limit = min(limit, share.most)
    # The server accepts only a number as the length. A chunked body has none.
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise too_large
        share.take(len(chunk))
        yield chunk
