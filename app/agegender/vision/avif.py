"""The boxes of an AVIF file: what picture it declares, and what its streams hold.

Layouts: ISO/IEC 14496-12 (boxes), ISO/IEC 23008-12 (items and their properties), AV1 Image File Format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from agegender.vision import av1
from agegender.vision.errors import ImageUnreadable

# Boxes side by side, or entries in one table; photographs have tens, and walking more would hold the
# interpreter: a table of a few hundred bytes can announce millions of entries that take up no byte.
_MAX_PARTS = 20_000
_MAX_BRANDS = 64
_NOT_READ = "{} is not read. Send the image as JPEG, PNG, WebP, BMP or AVIF."
_ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1")

_ORIENTATION = {None: (1, 8, 3, 6), 0: (4, 5, 2, 7), 1: (2, 7, 4, 5)}
"""EXIF's number by `imir` axis and anticlockwise quarter turns of `irot`; the turning comes first."""


class Picture(NamedTuple):
    """The primary item of an AVIF file; width and height are in pixels before `orientation`."""

    width: int
    height: int
    orientation: int
    transparent: bool
    depth: int
    coded_pixels: int
    """The most that a decoder may have to hold for one stream (a picture and its alpha count as one)."""


def read_picture(view: memoryview) -> Picture:
    """Find the primary item. Raises ImageUnreadable for what is no still AVIF.

    IndexError or struct.error says that the file is cut short, ValueError that it is broken otherwise.
    """
    boxes = _Boxes(view)
    _check_brand(bytes(boxes.only(b"ftyp")[: 4 * _MAX_BRANDS]))
    meta = _Boxes(boxes.only(b"meta")[4:])
    properties = _Boxes(meta.only(b"iprp"))
    containers = list(_Boxes(properties.only(b"ipco")))
    width = height = turns = 0
    axis = None
    for index in _properties_of(_primary(meta.only(b"pitm")), properties.only(b"ipma")):
        if not 0 < index <= len(containers):
            raise ValueError("no such property")
        kind, body = containers[index - 1]
        if kind == b"ispe":
            width, height = struct.unpack_from(">II", body, 4)
        elif kind == b"irot":
            turns = body[0] & 3
        elif kind == b"imir":
            axis = body[0] & 1
    pixels = [av1.coded_pixels(stream) for stream in _av1_streams(view, meta)]
    if not pixels:
        raise ValueError("no AV1 stream")
    return Picture(
        width,
        height,
        # EXIF data, where there is any, has no say: in AVIF these two properties turn the picture.
        _ORIENTATION[axis][turns],
        transparent=any(kind == b"auxC" and bytes(body[4:]).startswith(_ALPHA) for kind, body in containers),
        depth=max((_depth(body) for kind, body in containers if kind == b"av1C"), default=8),
        coded_pixels=max(max(pixels), sum(pixels) // 2),
    )


class _Boxes:
    """The boxes that lie side by side in `view`, each as its four-letter type and its body."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def __iter__(self) -> Iterator[tuple[bytes, memoryview]]:
        position = 0
        for _ in range(_MAX_PARTS):
            if position == len(self._view):
                return
            size, kind = struct.unpack_from(">I4s", self._view, position)
            start = position + 8
            if size == 1:
                (size,) = struct.unpack_from(">Q", self._view, start)
                start += 8
            elif size == 0:
                size = len(self._view) - position
            if position + size > len(self._view):
                raise IndexError
            if position + size < start:
                raise ValueError("a box smaller than its header")
            yield kind, self._view[start : position + size]
            position += size
        raise ValueError("too many boxes")

    def only(self, kind: bytes) -> memoryview:
        """The body of the one box of this type."""
        bodies = [body for found, body in self if found == kind]
        if not bodies:
            raise IndexError
        if len(bodies) > 1:
            raise ValueError("a box twice")
        return bodies[0]


class _Fields:
    """Reads big-endian numbers one after another."""

    def __init__(self, view: memoryview, position: int = 0) -> None:
        self._view = view
        self._position = position
        self._parts = 0

    def take(self, size: int) -> int:
        """The next number, of `size` bytes; 0 where it has none."""
        field = self._view[self._position : self._position + size]
        if len(field) < size:
            raise IndexError
        self._position += size
        return int.from_bytes(field, "big")

    def count(self, size: int) -> int:
        """The next number, where it says how many entries follow; all counts together are bounded."""
        number = self.take(size)
        self._parts += number
        if self._parts > _MAX_PARTS:
            raise ValueError("too many entries")
        return number


def _check_brand(ftyp: bytes) -> None:
    brands = [ftyp[index : index + 4] for index in range(0, len(ftyp), 4)]
    if brands[0] == b"avis":
        # Decoders take the size of such a file from its tracks and not from the still picture beside them.
        raise ImageUnreadable(_NOT_READ.format("An animated AVIF"))
    if b"avif" not in brands:
        name = "HEIC" if any(brand[:3] in (b"hei", b"hev") for brand in brands) else "This kind of file"
        raise ImageUnreadable(_NOT_READ.format(name))


def _primary(pitm: memoryview) -> int:
    return _Fields(pitm, 4).take(4 if pitm[0] else 2)


def _properties_of(item: int, ipma: memoryview) -> list[int]:
    """Numbers, from 1, of the properties in `ipco` that belong to the item."""
    fields = _Fields(ipma, 4)
    wide = ipma[3] & 1
    for _ in range(fields.count(4)):
        entry = fields.take(4 if ipma[0] else 2)
        indices = [fields.take(2) & 0x7FFF if wide else fields.take(1) & 0x7F for _ in range(fields.count(1))]
        if entry == item:
            return indices
    raise ValueError("an item without properties")


def _depth(av1c: memoryview) -> int:
    high, twelve = av1c[2] & 0x40, av1c[2] & 0x20
    return 8 if not high else 12 if twelve else 10


def _av1_streams(view: memoryview, meta: _Boxes) -> Iterator[bytes]:
    """The data of every AV1 item, the picture's own, its alpha's and a grid's tiles among them."""
    av1_items = set()
    iinf = meta.only(b"iinf")
    for kind, infe in _Boxes(iinf[8 if iinf[0] else 6 :]):
        if kind == b"infe" and infe[0] >= 2:
            fields = _Fields(infe, 4)
            item = fields.take(2 if infe[0] == 2 else 4)
            fields.take(2)  # protection
            if fields.take(4) == int.from_bytes(b"av01", "big"):
                av1_items.add(item)

    iloc = meta.only(b"iloc")
    version = iloc[0]
    fields = _Fields(iloc, 4)
    sizes, more_sizes = fields.take(1), fields.take(1)
    unread = len(view)
    inside = meta.only(b"idat") if any(kind == b"idat" for kind, _ in meta) else view[:0]
    for _ in range(fields.count(2 if version < 2 else 4)):
        item = fields.take(2 if version < 2 else 4)
        method = fields.take(2) & 15 if version else 0
        fields.take(2)  # data reference
        base = fields.take(more_sizes >> 4)
        source = inside if method == 1 else view
        stream = bytearray()
        for _ in range(fields.count(2)):
            if version:
                fields.take(more_sizes & 15)  # extent index
            offset = base + fields.take(sizes >> 4)
            length = fields.take(sizes & 15)
            if offset + length > len(source):
                raise IndexError
            unread -= length
            if method > 1 or unread < 0:
                raise ValueError("items made of other items, or of the same bytes")
            if item in av1_items:
                stream += source[offset : offset + length]
        if item in av1_items:
            yield bytes(stream)
