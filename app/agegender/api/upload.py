"""The images in a request's body, read into memory and nowhere else, and never more of it than is allowed."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from fastapi import Request
from pydantic_core import from_json

from agegender.api.arrival_memory import ArrivalMemory, Share
from agegender.api.multipart import MultipartMalformed, Part, read_parts
from agegender.api.problems import (
    BODY_TOO_LARGE,
    IMAGE_MISSING,
    JSON_INVALID,
    MEDIA_TYPE_UNSUPPORTED,
    MULTIPART_INVALID,
    ApiError,
)

MAX_BATCH_IMAGES = 32

# In words for a batch.
BATCH_INVALID = replace(
    MULTIPART_INVALID,
    example="The part photo is not expected: send 1 to 32 parts named images, as "
    "`curl -F images=@one.jpg -F images=@two.jpg` does.",
)
BATCH_JSON_INVALID = replace(
    JSON_INVALID,
    example='The field images is missing: send {"images": ["...", "..."]}, each image as base64 or a data URL.',
)
BATCH_TOO_LARGE = replace(
    BODY_TOO_LARGE,
    example="The batch has more than the 41943040 bytes that are allowed: send fewer images at a time.",
)
BATCH_NOT_MULTIPART = replace(
    MEDIA_TYPE_UNSUPPORTED,
    example="The body of a batch must be multipart/form-data with parts named images, or JSON; POST /predict takes "
    "a single image as it is.",
)

# Boundaries and headers of parts, or JSON around the image; real ones take some 200 bytes.
_OVERHEAD = 16 * 1024

_BARE = ("", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded")
"""Content types, beside image/*, of a body that is the image itself; the last is that of `curl --data-binary`."""

# Base64 as URLs have it is base64 as well; lines of a mail's length are one.
_BASE64_OF_URLS = bytes.maketrans(b"-_", b"+/")


_AS_JSON = 'send {"image": "..."}, with the image as base64 or a data URL'
_BATCH_AS_JSON = 'send {"images": ["...", "..."]}, with each image as base64 or a data URL'
_AS_FORM = "as `curl -F image=@photo.jpg` does"
_BATCH_AS_FORM = "as `curl -F images=@one.jpg -F images=@two.jpg` does"

_MOST_JSON_VALUES = 1000
"""Far more than there are in a batch; millions of empty lists would take much more memory than their text."""


class SentImage:
    """An image as it was sent: the bytes of a file, or text that stands for them."""

    def __init__(self, data: bytes | str, filename: str = "") -> None:
        self.filename = filename
        self.size = len(data)
        self._data: bytes | str = data

    def take(self, max_bytes: int) -> bytes:
        """Return the bytes of the file, once: they are not kept. Raises ApiError."""
        data, self._data = self._data, b""
        content = _from_text(data) if isinstance(data, str) else data
        if len(content) > max_bytes:
            raise _too_large(max_bytes)
        return content


async def read_image(request: Request, max_bytes: int, memory: ArrivalMemory) -> SentImage:
    """Read one image: the bare body, a multipart part or a JSON field `image`. Raises ApiError or Overloaded."""
    media_type = _media_type(request)
    too_large = _too_large(max_bytes)
    with memory.for_one_request() as share:
        if media_type == "multipart/form-data":
            chunks = _limited(request, max_bytes + _OVERHEAD, too_large, share)
            return await _read_form_image(request, chunks)
        if media_type == "application/json":
            chunks = _limited(request, largest_body(max_bytes), too_large, share)
            image = _json_field(await _join(chunks), "image", _AS_JSON)
            if not isinstance(image, str):
                raise ApiError(JSON_INVALID, "The field image must be a string: base64 or a data URL.")
            return SentImage(image)
        if media_type not in _BARE and not media_type.startswith("image/"):
            raise ApiError(MEDIA_TYPE_UNSUPPORTED)
        body = await _join(_limited(request, max_bytes, too_large, share))
        if not body:
            raise ApiError(IMAGE_MISSING)
        return SentImage(body)


async def read_batch(request: Request, max_batch_bytes: int, share: Share) -> list[SentImage]:
    """Read the multipart parts or the JSON list `images`, in the order sent. Raises ApiError or Overloaded."""
    media_type = _media_type(request)
    too_large = ApiError(
        BATCH_TOO_LARGE,
        f"The batch has more than the {max_batch_bytes} bytes that are allowed: send fewer images at a time.",
    )
    if media_type == "multipart/form-data":
        return await _read_form_batch(request, _limited(request, max_batch_bytes, too_large, share))
    if media_type != "application/json":
        raise ApiError(BATCH_NOT_MULTIPART)
    chunks = _limited(request, largest_body(max_batch_bytes), too_large, share)
    images = _json_field(await _join(chunks), "images", _BATCH_AS_JSON)
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ApiError(JSON_INVALID, "The field images must be a list of strings: base64 or data URLs.")
    if not 1 <= len(images) <= MAX_BATCH_IMAGES:
        raise ApiError(
            JSON_INVALID,
            f"The list images holds {len(images)} images: send 1 to {MAX_BATCH_IMAGES} at a time.",
        )
    return [SentImage(image) for image in images]


async def _read_form_image(request: Request, chunks: AsyncGenerator[bytes, None]) -> SentImage:
    """Read a form whose only part is `image`."""
    parts: list[Part] = []
    async for part in _parts(request, chunks):
        parts.append(part)
        if len(parts) > 5:  # enough to say what is wrong
            break
    others = [part.name for part in parts if part.name != "image"]
    if not parts:
        raise ApiError(
            MULTIPART_INVALID, f"The form is empty: send the file in a part named image, {_AS_FORM}."
        )
    if len(parts) == 1 and others:
        raise ApiError(MULTIPART_INVALID, f"The part is named {_shown(others)}: name it image, {_AS_FORM}.")
    if others:
        raise ApiError(
            MULTIPART_INVALID,
            f"The form has parts that are not expected ({_shown(others)}): send the part image alone; options "
            "belong into the query.",
        )
    if len(parts) > 1:
        raise ApiError(
            MULTIPART_INVALID,
            "The form has more than one part named image: send one, or several to POST /predict/batch.",
        )
    return SentImage(bytes(parts[0].content), parts[0].filename)


async def _read_form_batch(request: Request, chunks: AsyncGenerator[bytes, None]) -> list[SentImage]:
    """Read a form whose parts are all `images`."""
    images: list[SentImage] = []
    async for part in _parts(request, chunks):
        if part.name != "images":
            raise ApiError(
                BATCH_INVALID,
                f"The part {_shown([part.name])} is not expected: send 1 to {MAX_BATCH_IMAGES} parts named images, "
                f"{_BATCH_AS_FORM}.",
            )
        if len(images) == MAX_BATCH_IMAGES:
            raise ApiError(
                BATCH_INVALID, f"The form has more than {MAX_BATCH_IMAGES} images: send fewer at a time."
            )
        images.append(SentImage(bytes(part.content), part.filename))
    if not images:
        raise ApiError(
            BATCH_INVALID,
            f"The form is empty: send 1 to {MAX_BATCH_IMAGES} parts named images, {_BATCH_AS_FORM}.",
        )
    return images


async def _parts(request: Request, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[Part, None]:
    try:
        async for part in read_parts(request.headers["content-type"], chunks):
            yield part
    except MultipartMalformed as error:
        raise ApiError(MULTIPART_INVALID, str(error)) from None


def _shown(names: list[str]) -> str:
    """Names that came with a request, in an answer to it."""
    return ", ".join(dict.fromkeys(name[:40].strip() or '""' for name in names[:5]))


def _json_field(body: bytes, name: str, hint: str) -> Any:
    """The value of the only field of a JSON object. Raises ApiError; `hint` says what to send."""
    if sum(map(body.count, (b"[", b"{", b","))) > _MOST_JSON_VALUES:
        raise ApiError(JSON_INVALID, f"The body holds more than images: {hint}.")
    try:
        document = from_json(body)
    except ValueError:
        raise ApiError(JSON_INVALID, f"The body is not valid JSON: {hint}.") from None
    if not isinstance(document, dict):
        raise ApiError(JSON_INVALID, f"The body is not a JSON object: {hint}.")
    others = [field for field in document if field != name]
    if others:
        raise ApiError(JSON_INVALID, f"The field {_shown(others)} is not expected: {hint}.")
    if name not in document:
        raise ApiError(JSON_INVALID, f"The field {name} is missing: {hint}.")
    return document[name]


def _from_text(text: str) -> bytes:
    """The bytes of a file in base64 or in a data URL (RFC 2397). Raises ApiError."""
    if text[:8].lower().startswith(("http://", "https://")):
        raise ApiError(
            JSON_INVALID, "Addresses are not fetched: send the image itself, as base64 or a data URL."
        )
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise ApiError(
                JSON_INVALID, "The data URL is not in base64: write it as data:image/jpeg;base64,... ."
            )
    try:
        data = text.encode("ascii").translate(_BASE64_OF_URLS, b" \r\n\t").rstrip(b"=")
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ApiError(
            JSON_INVALID,
            "The image is not valid base64: encode the bytes of its file, or send them as they are.",
        ) from None


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(
        BODY_TOO_LARGE, f"The image has more than the {max_bytes} bytes that are allowed: send a smaller one."
    )


def largest_body(size: int) -> int:
    """Return how long a body may be whose images have `size` bytes: in JSON it is the longest."""
    return (size + 2) // 3 * 4 + _OVERHEAD


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _join(chunks: AsyncGenerator[bytes, None]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def _limited(
    request: Request, limit: int, too_large: ApiError, share: Share
) -> AsyncGenerator[bytes, None]:
    """The body as it comes; raises `too_large` as soon as it is known to have more than `limit` bytes."""
    limit = min(limit, share.most)
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
