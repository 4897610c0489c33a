"""The parts of a multipart/form-data body, in memory.

Starlette's parser writes large files to a disk, and takes a part without a file name for text (RFC 7578 makes the name
optional).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


class MultipartMalformed(Exception):
    """str(e) is a sentence that says what is wrong, and what to do."""


@dataclass(slots=True)
class Part:
    """One part of a form."""

    name: str = ""
    filename: str = ""
    content: bytearray = field(default_factory=bytearray)


async def read_parts(content_type: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[Part]:
    """Each part as soon as it has arrived whole. Raises MultipartMalformed, and what `chunks` raises."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise MultipartMalformed(
            "The Content-Type names no boundary: let your HTTP client set this header by itself."
        )
    collector = _Collector()
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        async for chunk in chunks:
            parser.write(chunk)
            while collector.whole:
                yield collector.whole.pop(0)
    except FormParserError:
        raise MultipartMalformed(
            "The body is not valid multipart/form-data: let your HTTP client build it."
        ) from None
    if not collector.ended:
        raise MultipartMalformed("The multipart body ends before its last boundary: send all of it.")


class _Collector:
    """Collects what the parser calls back with."""

    def __init__(self) -> None:
        self.whole: list[Part] = []
        self.ended = False
        self._part = Part()
        self._header = bytearray()
        self._value = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        """Return what the parser is to call."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_to_header,
            "on_header_value": self._add_to_value,
            "on_header_end": self._end_header,
            "on_part_data": self._add_to_part,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._part = Part()

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
        self.whole.append(self._part)
        self._part = Part()

    def _end(self) -> None:
        self.ended = True


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")
