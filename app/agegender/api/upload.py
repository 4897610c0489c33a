"""Read the images of a request body: into memory only, and no more bytes than allowed."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import AsyncGenerator
from io import BytesIO
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field as FormField
from python_multipart.multipart import File, FormParser, parse_options_header

from agegender.api.arrival_memory import ArrivalMemory, Share
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
_IMAGES_FIELD = (
    f'send {{"images": ["...", "..."]}}, with 1 to {MAX_BATCH_IMAGES} images as base64 or data URLs'
)

_OVERHEAD = 16 * 1024
"""Bytes allowed for what surrounds an image: boundaries and headers of parts, or JSON. Usually it takes about 200."""

_BARE = ("", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded")
"""Content types of a bare image, besides image/*. `curl --data-binary` sends the last one."""

_FROM_BASE64URL = bytes.maketrans(b"-_", b"+/")

_MOST_JSON_VALUES = 1000
"""Far more than a batch needs. Millions of empty lists would take much more memory than their text."""


class ImageBody(BaseModel):
    """The JSON body of POST /predict."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(
        description="The bytes of the file as base64, or a data URL. Other URLs are not fetched."
    )


class BatchBody(BaseModel):
    """The JSON body of POST /predict/batch."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(
        min_length=1, max_length=MAX_BATCH_IMAGES, description="Each image as for POST /predict."
    )


_JSON_MISTAKES = {
    "extra_forbidden": "is not expected",
    "json_invalid": "is not valid JSON",
    "list_type": "must be a list",
    "missing": "is missing",
    "model_type": "must be an object",
    "string_type": "must be a string",
    "too_long": "has too many entries",
    "too_short": "is empty",
}
"""What pydantic's kinds of error say of a part of a JSON body."""

Body = TypeVar("Body", bound=BaseModel)


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
            return SentImage(_read_json(ImageBody, await _join(chunks), _IMAGE_FIELD).image)
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
    too_large = _too_large(max_batch_bytes)
    if media_type == "multipart/form-data":
        chunks = _limited(request, max_batch_bytes, too_large, share)
        return await _read_form(request, chunks, "images", MAX_BATCH_IMAGES, _IMAGES_PARTS)
    if media_type != "application/json":
        raise ApiError(MEDIA_TYPE_UNSUPPORTED)
    chunks = _limited(request, largest_body(max_batch_bytes), too_large, share)
    return [SentImage(text) for text in _read_json(BatchBody, await _join(chunks), _IMAGES_FIELD).images]


async def _read_form(
    request: Request, chunks: AsyncGenerator[bytes, None], name: str, most: int, expected: str
) -> list[SentImage]:
    """Read a form of 1 to `most` parts, all called `name`. Raises ApiError; `expected` says what to send."""
    images: list[SentImage] = []
    ended = False

    def add(part: FormField | File) -> None:
        part_name = _name(part.field_name)
        if part_name != name:
            shown = part_name[:40].strip() or '""'
            raise ApiError(
                MULTIPART_INVALID, f"The part {shown} is not expected: {expected}. Options go into the query."
            )
        if len(images) == most:
            raise ApiError(MULTIPART_INVALID, f"The form has too many images: {expected}.")
        if isinstance(part, File):
            assert isinstance(part.file_object, BytesIO)  # noqa: S101
            images.append(SentImage(part.file_object.getvalue(), _name(part.file_name)))
        else:  # without a file name, which RFC 7578 does not require
            images.append(SentImage(part.value or b""))

    def end() -> None:
        nonlocal ended
        ended = True

    _, options = parse_options_header(request.headers["content-type"])
    if not options.get(b"boundary"):
        raise ApiError(
            MULTIPART_INVALID, "The Content-Type has no boundary: let your HTTP client set this header."
        )
    try:
        # Starlette's parser would write large files to disk.
        parser = FormParser(
            "multipart/form-data",
            on_field=add,
            on_file=add,
            on_end=end,
            boundary=options[b"boundary"],
            config={"MAX_MEMORY_FILE_SIZE": math.inf},
        )
        try:
            async for chunk in chunks:
                parser.write(chunk)
        finally:
            parser.parser = None  # breaks a reference cycle, which would keep the image in memory for a while
    except FormParserError:
        raise ApiError(
            MULTIPART_INVALID, "The body is not valid multipart/form-data: let your HTTP client build it."
        ) from None
    if not ended:
        raise ApiError(MULTIPART_INVALID, "The multipart body ends before its last boundary: send all of it.")
    if not images:
        raise ApiError(MULTIPART_INVALID, f"The form is empty: {expected}.")
    return images


def _name(sent: bytes | None) -> str:
    try:
        return (sent or b"").decode()
    except UnicodeDecodeError:
        return (sent or b"").decode("latin-1")


def _read_json(form: type[Body], body: bytes, expected: str) -> Body:
    """Parse a JSON body. Raises ApiError; `expected` says what to send."""
    wrong = "it has too many values"
    if sum(map(body.count, (b"[", b"{", b","))) <= _MOST_JSON_VALUES:
        try:
            return form.model_validate_json(body)
        except ValidationError as error:
            parts = [
                f"{'.'.join(map(str, each['loc'])) or 'the body'} {_JSON_MISTAKES.get(each['type'], 'is wrong')}"
                for each in error.errors(include_input=False)[:3]
            ]
            wrong = ", ".join(parts)[:200]
    raise ApiError(
        JSON_INVALID, f"The JSON is not as expected ({wrong}): {expected}, and options in the query."
    )


def _from_text(text: str) -> bytes:
    """Decode base64 or a data URL (RFC 2397). Raises ApiError."""
    head, _, content = text.partition(",")
    if head[:5].lower() == "data:" and head[-7:].lower() == ";base64":
        text = content
    try:
        # Callers also send base64url, line breaks, and base64 without padding.
        data = text.encode("ascii").translate(_FROM_BASE64URL, b" \r\n\t").rstrip(b"=")
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ApiError(JSON_INVALID) from None


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(
        BODY_TOO_LARGE, f"There are more than {max_bytes} bytes: send a smaller image, or fewer at a time."
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
