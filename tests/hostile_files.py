"""Files that mean harm, or have come to harm: bombs, damaged files, and what only pretends to be an image."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from hypothesis import strategies as st
from image_files import FILES, avif_with_tables, box, encode, png_chunk, quarters, riff


def too_many_pixels() -> dict[str, bytes]:
    """Files of 20,000x20,000 pixels or nearly, as their headers say, each of less than 60 KB."""
    jpeg = FILES["JPEG"]
    size = jpeg.index(b"\xff\xc0") + 5
    avif = FILES["AVIF"]
    ispe = avif.index(b"ispe") + 8
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(2501)) for _ in range(20_000)) + rows.flush()
    start = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0))
    canvas = bytes(4) + (16_382).to_bytes(3, "little") * 2
    return {
        "PNG": start + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b""),
        "JPEG": jpeg[:size] + struct.pack(">HH", 20_000, 20_000) + jpeg[size + 4 :],
        "AVIF": avif[:ispe] + struct.pack(">II", 20_000, 20_000) + avif[ispe + 8 :],
        "WebP": riff(b"RIFF", b"WEBP" + riff(b"VP8X", canvas) + encode(".webp")[12:]),
    }


def busy_tables() -> dict[str, bytes]:
    """AVIF files whose tables announce far more than there is, or send their reader round and round."""
    one_property = struct.pack(">II", 0, 1) + b"\0\1\1\1"
    extents = b"\1\0\0\0\0\0" + struct.pack(">H", 2000) + struct.pack(">HHHH", 9, 0, 0, 65535) * 2000
    items = b"\2\0\0\0\0\0" + struct.pack(">I", 19_000) + struct.pack(">IHHH", 9, 1, 0, 0) * 19_000
    free = [box(b"free")] * 19_000
    many = 2_000_000
    return {
        "places": avif_with_tables(one_property, extents),
        "items": avif_with_tables(one_property, items, box(b"idat", b"abc"), *free),
        "properties": avif_with_tables(struct.pack(">II", 0, many) + b"\0\2\0" * many, b"\0\0\0\0\0\0\0\0"),
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


def foreign_files() -> dict[str, bytes]:
    """What is no image of a kind that is read: among it whole files of kinds that OpenCV would decode."""

    def mp4() -> bytes:
        return box(b"ftyp", b"isom\0\0\0\0isommp42") + box(b"mdat", bytes(64))

    return {
        "GIF": encode(".gif"),
        "TIFF": encode(".tiff"),
        "JPEG 2000": encode(".jp2", np.zeros((64, 64, 3), np.uint8)),
        "PPM": encode(".ppm"),
        "Radiance": encode(".hdr", quarters().astype(np.float32)),
        "Sun raster": encode(".ras"),
        "HEIC": box(b"ftyp", b"heic\0\0\0\0mif1heic") + box(b"meta", bytes(4)),
        "MP4": mp4(),
        "PDF": b"%PDF-1.7\n" + bytes(200),
        "SVG": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "ZIP": b"PK\3\4" + bytes(100),
        "ELF": b"\x7fELF" + bytes(100),
        "text": b"bread",
        "zeros": bytes(1000),
        "NumPy": b"\x93NUMPY\1\0" + bytes(100),
        # What another program takes for something else, and none of it for an image.
        "PDF around a JPEG": b"%PDF-1.7\n1 0 obj\nstream\n" + FILES["JPEG"] + b"\nendstream\n%%EOF",
        "HTML around a PNG": b"<html><!--" + FILES["PNG"] + b"--><script>alert(1)</script>",
        "AVI": riff(b"RIFF", b"AVI " + FILES["lossy WebP"][12:]),
        "PPM that begins as a box": b"P6 8ftypavif" + bytes(200),
    }


def polyglots() -> dict[str, bytes]:
    """Whole images that other programs could take for something else: what they hold besides is not looked at."""
    script = b"<script>alert('marked')</script>"
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(script)) + script
    archive = b"PK\3\4marked" + bytes(60) + b"PK\5\6" + bytes(18)
    return {
        "JPEG with a script": FILES["JPEG"][:2] + comment + FILES["JPEG"][2:],
        "JPEG before a ZIP": FILES["JPEG"] + archive,
        "PNG with a script": FILES["PNG"][:33]
        + png_chunk(b"tEXt", b"Comment\0" + script)
        + FILES["PNG"][33:],
        "PNG before a page": FILES["PNG"] + script,
        "WebP before a ZIP": FILES["lossless WebP"] + archive,
        "BMP before a PNG": FILES["BMP"] + FILES["PNG"],
    }
