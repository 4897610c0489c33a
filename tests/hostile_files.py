"""Files that mean harm, or have come to harm: bombs, damaged files, and what only pretends to be an image."""

from __future__ import annotations

import struct
import zlib
from functools import cache

from hypothesis import strategies as st
from image_files import FILES, box, encode, png, png_chunk, quarters
from PIL import Image

_SIDE = 20_000


@cache
def too_many_pixels() -> dict[str, bytes]:
    """Small files of some 400 million pixels, as they say themselves or as a decoder finds out."""
    jpeg, avif, heic, gif, bmp = (FILES[kind] for kind in ("JPEG", "AVIF", "HEIC", "GIF", "BMP"))
    size = jpeg.index(b"\xff\xc0") + 5
    return {
        "PNG": png(1, 0, bytes(_SIDE // 8), size=(_SIDE, _SIDE)),
        "PNG of 70 million": png(8, 0, bytes(7_000), size=(7_000, 10_000)),
        "JPEG": jpeg[:size] + struct.pack(">HH", _SIDE, _SIDE) + jpeg[size + 4 :],
        "AVIF": _with_size(avif, _SIDE),
        "HEIC": _with_size(heic, _SIDE),
        "WebP": _webp_canvas(16_383),
        "GIF": gif[:6] + struct.pack("<HH", _SIDE, _SIDE) + gif[10:],
        "BMP": bmp[:18] + struct.pack("<ii", _SIDE, _SIDE) + bmp[26:],
        "TIFF": _tiff((0x100, _SIDE), (0x101, _SIDE)),
        "TIFF of large tiles": _tiff((0x100, 8), (0x101, 8), (0x142, 16_384), (0x143, 16_384)),
        "AVIF with a larger stream": _with_size(encode("AVIF", Image.new("RGB", (6000, 6000)), speed=10), 8),
    }


@cache
def costly_headers() -> dict[str, bytes]:
    """Files that would keep their reader busy before any pixel is decoded, or in passes over the same pixels."""
    jpeg, image = FILES["JPEG"], FILES["PNG"]
    progressive = encode("JPEG", Image.new("RGB", (4000, 3000)), progressive=True)
    scan = progressive.rindex(b"\xff\xda")
    many = 400_000
    return {
        "JPEG of many segments": jpeg[:2] + b"\xff\xe1\0\x0aExif\0\0ab" * many + jpeg[2:],
        "JPEG of many scans": progressive[:scan] + progressive[scan:-2] * 200 + b"\xff\xd9",
        "PNG of many chunks": image[:33] + png_chunk(b"tEXt", b"a\0b") * many + image[33:],
        "PNG of empty data": image[:33] + png_chunk(b"IDAT", b"") * many + image[33:],
        "PNG of large texts": image[:33]
        + 50 * png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21)))
        + image[33:],
        "GIF of many comments": FILES["GIF"][:13] + b"!\xfe" + (b"\1a" * many + b"\0") + FILES["GIF"][13:],
        "AVIF of many places": _avif_of_places(2_000),
        "TIFF whose tags share their bytes": _tiff(
            *((0x8000 + tag, 2**20) for tag in range(9_000)), more=2**20
        ),
    }


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """One of the files with up to four bytes changed, left out or put in, most of them near its start."""
    data = bytearray(draw(st.sampled_from(sorted(FILES.values()))))
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, len(data) - 1) | st.integers(0, min(len(data), 300) - 1))
        change = draw(st.binary(max_size=4))
        data[position : position + draw(st.integers(0, 4))] = change
        if not data:
            break
    return bytes(data)


@cache
def foreign_files() -> dict[str, bytes]:
    """What is no image of a kind that is read: among it kinds that Pillow could decode, but shall not."""
    return {
        "JPEG 2000": encode("JPEG2000"),
        "PPM": encode("PPM"),
        "TGA": encode("TGA"),
        "ICO": encode("ICO"),
        "EPS": encode("EPS"),
        "MP4": box(b"ftyp", b"isom\0\0\0\0isommp42") + box(b"mdat", bytes(64)),
        "PDF": encode("PDF"),
        "HTML": b"<!doctype html><script>alert(1)</script>",
        # What another program takes for something else, and none of it for an image.
        "PDF around a JPEG": b"%PDF-1.7\n1 0 obj\nstream\n" + FILES["JPEG"] + b"\nendstream\n%%EOF",
        "HTML around a PNG": b"<html><!--" + FILES["PNG"] + b"--><script>alert(1)</script>",
        "AVI": b"RIFF\x40\0\0\0AVI " + FILES["lossy WebP"][12:],
    }


def _with_size(boxes: bytes, side: int) -> bytes:
    """An AVIF or HEIC file that declares another size than its stream has."""
    ispe = boxes.index(b"ispe") + 8
    return boxes[:ispe] + struct.pack(">II", side, side) + boxes[ispe + 8 :]


def _webp_canvas(side: int) -> bytes:
    data = bytearray(encode("WEBP", quarters().convert("RGBA"), exif=b"Exif\0\0", lossless=True))
    data[24:30] = (side - 1).to_bytes(3, "little") * 2
    return bytes(data)


def _tiff(*tags: tuple[int, int], more: int = 0) -> bytes:
    """An RGB TIFF with these tags: numbers or, with `more` bytes behind it, lengths of values in the same bytes."""
    whole = {0x102: 8, 0x103: 8, 0x106: 2, 0x115: 3, 0x111: 8, 0x117: 8, 0x100: 8, 0x101: 8}
    numbers = whole | (dict(tags) if not more else {})
    entries = [(tag, 4, 1, value) for tag, value in numbers.items()]
    if more:
        entries += [(tag, 7, size, 8) for tag, size in tags]
    entries.sort()
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4 + more)


def _avif_of_places(count: int) -> bytes:
    """An AVIF file whose items are said to lie in thousands of places that take up no byte."""
    extents = b"\1\0\0\0\0\0" + struct.pack(">H", count) + struct.pack(">HHHH", 9, 0, 0, 65535) * count
    ispe = box(b"ispe", struct.pack(">III", 0, 8, 8))
    return box(b"ftyp", b"avif\0\0\0\0avifmif1") + box(
        b"meta",
        bytes(4),
        box(b"hdlr", bytes(8), b"pict", bytes(13)),
        box(b"pitm", b"\0\0\0\0\0\1"),
        box(b"iprp", box(b"ipco", ispe), box(b"ipma", struct.pack(">II", 0, 1) + b"\0\1\1\1")),
        box(b"iinf", struct.pack(">IH", 0, 1), box(b"infe", b"\2\0\0\0\0\1\0\0av01\0")),
        box(b"iloc", extents),
    )
