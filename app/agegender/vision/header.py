"""What an image file says of itself, read from its bytes before any pixel is decoded.

Each reader walks the whole structure of its format, so a file that is cut short is known as such: decoders
would fill the missing part with grey. It also refuses what costs a decoder far more than its size suggests.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Literal

from agegender.vision import avif
from agegender.vision.errors import ImageUnreadable

Format = Literal["JPEG", "PNG", "WebP", "BMP", "AVIF"]

# Segments, chunks or boxes in one file; photographs have tens, and walking more would hold the interpreter.
_MAX_PARTS = 20_000
# Passes over a whole progressive JPEG; encoders write about ten.
_MAX_SCANS = 40
# Compressed text and profiles in a PNG: each may unpack to 8 MB, which libpng does only to drop it.
_MAX_COMPRESSED_CHUNKS = 16

CUT_SHORT = "The image is cut short: its {} data ends too early. Send the whole file."
_CORRUPT = "The image is damaged: its {} structure is broken. Send an intact file, or save it anew."


@dataclass(frozen=True, slots=True)
class Header:
    """A file's own account of its picture. Width and height are in pixels as stored, before `orientation`."""

    format: Format
    width: int
    height: int
    end: int
    """Bytes of `data` that belong to the image; whatever follows does not."""
    orientation: int = 1
    """As EXIF numbers it, 1 to 8; 1 is upright."""
    transparent: bool = False
    """Whether there may be an alpha channel or a transparent colour."""
    depth: int = 8
    """Bits per channel."""
    coded_pixels: int = 0
    """AVIF: the pixels that its streams may make a decoder hold, whatever width and height say."""
    bytes_per_pixel: int = 6
    """What decoding takes at its height, as measured: at least the 8-bit colours, twice."""
    hidden_grey: int | None = None
    """PNG: the level, in 8 or 16 bits, that is transparent in a grey picture, which OpenCV does not heed."""
    edits: tuple[tuple[slice, bytes], ...] = ()
    """What to put in the place of parts of `data`, from the first to the last, so that OpenCV reads what they mean."""

    @property
    def pixels(self) -> int:
        """The most pixels that decoding has to hold at once."""
        return max(self.width * self.height, self.coded_pixels)


def read_header(data: bytes | memoryview) -> Header:
    """Find out what `data` is, by its content. Raises ImageUnreadable."""
    view = memoryview(data).cast("B")
    if not view:
        raise ImageUnreadable("The image is empty: it has no bytes. Send an image file.")
    start = bytes(view[:32])
    name: Format
    if start[:2] == b"\xff\xd8":
        name, reader = "JPEG", _jpeg
    elif start[:8] == b"\x89PNG\r\n\x1a\n":
        name, reader = "PNG", _png
    elif start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        name, reader = "WebP", _webp
    elif start[:2] == b"BM":
        name, reader = "BMP", _bmp
    elif start[4:8] == b"ftyp":
        name, reader = "AVIF", _avif
    else:
        raise ImageUnreadable(
            "The data is no image that can be read. Send a JPEG, PNG, WebP, BMP or AVIF file."
        )
    try:
        header = reader(view)
    except (struct.error, IndexError):
        raise ImageUnreadable(CUT_SHORT.format(name)) from None
    except (ValueError, KeyError):
        raise ImageUnreadable(_CORRUPT.format(name)) from None
    if header.width < 1 or header.height < 1:
        raise ImageUnreadable(_CORRUPT.format(name))
    return header


# JPEG: ITU-T T.81, annex B

# Stuffed bytes, fill bytes and restart markers are no segments: they belong to the scan around them.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_ALL_COEFFICIENTS = (1 << 64) - 1


def _jpeg(view: memoryview) -> Header:
    width = height = scans = buffered = 0
    orientation = 1
    progressive = False
    blocks: list[int] = []
    # Per component, the coefficients that some scan has brought to full precision, as a set of bits.
    complete: dict[int, int] = {}
    position = 2
    for _ in range(_MAX_PARTS):
        found = _JPEG_MARKER.search(view, position)
        if not found:
            raise ImageUnreadable(CUT_SHORT.format("JPEG"))
        marker = view[found.start() + 1]
        position = found.end()
        if marker == 0xD9:
            # An end marker after half of the scans: all is well formed, and most of the picture is missing.
            if not complete or any(bits != _ALL_COEFFICIENTS for bits in complete.values()):
                raise ImageUnreadable(CUT_SHORT.format("JPEG"))
            return Header("JPEG", width, height, position, orientation, bytes_per_pixel=max(6, 3 + buffered))
        if marker == 0x01:
            continue
        if marker == 0xD8:
            raise ValueError("a second start")
        (length,) = struct.unpack_from(">H", view, position)
        segment = view[position + 2 : position + length]
        if length < 2 or len(segment) < length - 2:
            raise IndexError
        position += length
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if complete:
                raise ValueError("a second frame")
            height, width, count = struct.unpack_from(">HHB", segment, 1)
            progressive = marker == 0xC2
            complete = {segment[6 + 3 * index]: 0 for index in range(count)}
            factors = [segment[7 + 3 * index] for index in range(count)]
            blocks = [(factor >> 4) * (factor & 15) for factor in factors]
        elif marker == 0xDA:
            scans += 1
            if scans > _MAX_SCANS:
                raise ValueError("too many scans")
            count = segment[0]
            if progressive or count < len(complete):
                # All coefficients wait in memory for further scans, in 16 bits each.
                buffered = math.ceil(2 * sum(blocks) / max([*blocks, 1]))
            first, last, precision = segment[1 + 2 * count], segment[2 + 2 * count], segment[3 + 2 * count]
            if not progressive:
                first, last, precision = 0, 63, 0
            if first > last or last > 63:
                raise ValueError("no such coefficients")
            if precision & 15 == 0:
                for index in range(count):
                    complete[segment[1 + 2 * index]] |= (1 << last + 1) - (1 << first)
        elif marker == 0xE1 and bytes(segment[:6]) == b"Exif\0\0" and orientation == 1:
            orientation = _exif_orientation(segment[6:])
    raise ValueError("too many segments")


# PNG: W3C PNG Specification, third edition


def _png(view: memoryview) -> Header:
    if bytes(view[12:16]) != b"IHDR":
        raise ValueError("no IHDR")
    width, height, depth, colour = struct.unpack_from(">IIBB", view, 16)
    transparent = colour in (4, 6)
    orientation = 1
    compressed = 0
    hidden_grey: int | None = None
    edits: list[tuple[slice, bytes]] = []
    position = 8
    for _ in range(_MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", view, position)
        body = view[position + 8 : position + 8 + length]
        chunk = slice(position, position + length + 12)
        position = chunk.stop
        if position > len(view):
            raise IndexError
        if kind == b"IEND":
            bytes_per_pixel = (8 if depth < 16 else 16) if transparent else 6
            if edits:
                bytes_per_pixel += 4 if depth < 16 else 8  # the copy, where nothing is compressed
            return Header(
                "PNG",
                width,
                height,
                position,
                orientation,
                transparent,
                depth,
                bytes_per_pixel=bytes_per_pixel,
                hidden_grey=hidden_grey,
                edits=tuple(edits),
            )
        if kind == b"tRNS":
            transparent = True
            if colour == 0:
                scale = {1: 255, 2: 85, 4: 17}.get(depth, 1)  # to the 8 bits in which OpenCV has fewer
                hidden_grey = int.from_bytes(body[:2]) % 2**depth * scale
        elif kind == b"eXIf":
            orientation = _exif_orientation(body)
        elif kind in (b"acTL", b"fcTL", b"fdAT"):
            # OpenCV's own reader of animations takes damaged ones for whole; a still picture goes to libpng.
            edits.append((chunk, b""))
        elif kind in (b"zTXt", b"iCCP") or (kind == b"iTXt" and _is_compressed(body)):
            compressed += 1
            if compressed > _MAX_COMPRESSED_CHUNKS:
                raise ValueError("too many compressed chunks")
    raise ValueError("too many chunks")


def _is_compressed(itxt: memoryview) -> bool:
    """Whether the flag is set that follows the keyword, of 1 to 79 bytes, and its end."""
    _, _, flags = bytes(itxt[:81]).partition(b"\0")
    return flags[:1] != b"\0"


# WebP: RFC 9649


def _webp(view: memoryview) -> Header:
    (size,) = struct.unpack_from("<I", view, 4)
    end = 8 + size
    if end > len(view):
        raise IndexError
    view = view[:end]
    width = height = 0
    transparent = has_pixels = False
    orientation = 1
    bytes_per_pixel = 6
    position = 12
    for _ in range(_MAX_PARTS):
        if position >= end:
            break
        kind, length = struct.unpack_from("<4sI", view, position)
        body = view[position + 8 : position + 8 + length]
        if len(body) < length:
            raise IndexError
        position += 8 + length + length % 2
        has_pixels |= kind in (b"VP8 ", b"VP8L", b"ANMF")
        needs = {b"VP8L": 8, b"ALPH": 10, b"ANMF": 12}.get(kind, 6)
        bytes_per_pixel = max(bytes_per_pixel, needs)
        if kind == b"EXIF":
            orientation = _exif_orientation(body)
        elif kind == b"VP8X":
            transparent = bool(body[0] & 0x10)
            width = int.from_bytes(body[4:7], "little") + 1
            height = int.from_bytes(body[7:10], "little") + 1
        elif kind == b"VP8 " and not width:
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", body, 6))
        elif kind == b"VP8L" and not width:
            (packed,) = struct.unpack_from("<I", body, 1)
            width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
            transparent = bool(packed >> 28 & 1)
    else:
        raise ValueError("too many chunks")
    if not has_pixels:
        raise ValueError("no picture")
    return Header("WebP", width, height, end, orientation, transparent, bytes_per_pixel=bytes_per_pixel)


# BMP: BITMAPFILEHEADER, then BITMAPCOREHEADER or BITMAPINFOHEADER and its successors


# Bits of red, green and blue.
_BMP_MASKS_16 = ((0xF800, 0x07E0, 0x001F), (0x7C00, 0x03E0, 0x001F))


def _bmp(view: memoryview) -> Header:
    offset, header_size = struct.unpack_from("<II", view, 10)
    compression = 0
    if header_size == 12:
        width, height, _, depth = struct.unpack_from("<HHHH", view, 18)
    else:
        width, height, _, depth, compression = struct.unpack_from("<iiHHI", view, 18)
        height = abs(height)  # negative where rows go from top to bottom
    if compression not in (0, 3):
        raise ImageUnreadable("A compressed BMP is not read. Send the image as JPEG or PNG.")
    bytes_per_pixel = 6
    edits: tuple[tuple[slice, bytes], ...] = ()
    if compression == 3:
        masks = struct.unpack_from("<III", view, 54)
        if depth == 16 and masks not in _BMP_MASKS_16:
            raise ImageUnreadable("A BMP with such colour masks is not read. Send the image as JPEG or PNG.")
        # They lie there behind a header of 40 bytes and in a longer one, but OpenCV looks in one place at each depth.
        bytes_per_pixel += depth // 8  # the copy
        edits = ((slice(14, 18), struct.pack("<I", 40 if depth == 16 else 56)),)
    # The fourth byte of a BMP pixel is alpha for few writers and left at zero by most: it is no transparency.
    end = offset + (width * depth + 31) // 32 * 4 * height
    if end > len(view):
        raise IndexError
    return Header("BMP", width, height, end, bytes_per_pixel=bytes_per_pixel, edits=edits)


def _avif(view: memoryview) -> Header:
    picture = avif.read_picture(view)
    deep = picture.depth > 8
    bytes_per_pixel = (42 if deep else 36) if picture.transparent else (22 if deep else 20)
    return Header(
        "AVIF",
        picture.width,
        picture.height,
        len(view),
        picture.orientation,
        picture.transparent,
        picture.depth,
        picture.coded_pixels,
        bytes_per_pixel,
    )


# EXIF: CIPA DC-008, which is a TIFF file inside another


def _exif_orientation(exif: memoryview) -> int:
    """1 to 8; 1 as well where the EXIF data is missing or broken, which is no reason to refuse a picture."""
    if bytes(exif[:6]) == b"Exif\0\0":
        exif = exif[6:]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(exif[:4]))
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, directory)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, directory + 2 + 12 * entry)
            if tag == 0x0112:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
