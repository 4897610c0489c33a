"""Parse multipart/form-data bodies in memory.

Starlette's parser writes large files to disk, and treats a part without a file name as text, although RFC 7578 makes
the name optional.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from agegender.api.problems import MULTIPART_INVALID, ApiError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


@dataclass(slots=True)
class Part:
    """One part of a form."""

    name: str = ""
    filename: str = ""
    content: bytearray = field(default_factory=bytearray)


async def read_parts(content_type: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[Part]:
    """Yield each part as soon as it is complete. Raises ApiError, and what `chunks` raises."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise ApiError(
            MULTIPART_INVALID, "The Content-Type has no boundary: let your HTTP client set this header."
        )
    collector = _Collector()
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        async for chunk in chunks:
            parser.write(chunk)
            while collector.complete:
                yield collector.complete.pop(0)
    except FormParserError:
        raise ApiError(
            MULTIPART_INVALID, "The body is not valid multipart/form-data: let your HTTP client build it."
        ) from None
    if not collector.ended:
        raise ApiError(MULTIPART_INVALID, "The multipart body ends before its last boundary: send all of it.")


class _Collector:
    """Builds parts from the parser's callbacks."""

    def __init__(self) -> None:
        self.complete: list[Part] = []
        self.ended = False
        self._part = Part()
        self._header = bytearray()
        self._value = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        """Return the callbacks for the parser."""
        return {
            "on_header_field": self._add_to_header,
            "on_header_value": self._add_to_value,
            "on_header_end": self._end_header,
            "on_part_data": self._add_to_part,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _add_to_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._part.name = _text(options.get(b"name", b""))
            self._part.filename = _text(options.get(b"filename", b""))
        self._header.clear()
        self._value.clear()

    def _add_to_part(self, data: bytes, start: int, end: int) -> None:
        self._part.content += data[start:end]

    def _end_part(self) -> None:
        self.complete.append(self._part)
        self._part = Part()

    def _end(self) -> None:
        self.ended = True


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")
