"""Small image files of every kind that is read, made by Pillow, and by hand what it cannot make."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image

COLOURS = {"R": (230, 30, 30), "G": (30, 200, 30), "B": (30, 30, 230), "W": (240, 240, 240)}
"""RGB of the letters that name the quarters of the test picture."""

WIDTH, HEIGHT = 48, 32


def quarters() -> Image.Image:
    """48x32 RGB: red and green above blue and white."""
    image = Image.new("RGB", (WIDTH, HEIGHT))
    for index, letter in enumerate("RGBW"):
        row, column = divmod(index, 2)
        image.paste(COLOURS[letter], (column * 24, row * 16, column * 24 + 24, row * 16 + 16))
    return image


def read_quarters(image: NDArray[np.uint8], tolerance: int = 12) -> str:
    """The letters at the four corners of a BGR image, row by row; "?" for a colour that is none of them."""
    letters = ""
    for y, x in ((4, 4), (4, -5), (-5, 4), (-5, -5)):
        rgb = image[y, x, ::-1].astype(int)
        near = [name for name, colour in COLOURS.items() if np.abs(rgb - colour).max() <= tolerance]
        letters += near[0] if near else "?"
    return letters


def encode(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    """`image`, or else the quarters, as Pillow writes it, or pillow-heif."""
    file = io.BytesIO()
    image = quarters() if image is None else image
    if kind == "HEIF":
        made = pillow_heif.from_pillow(image)
        if "exif" in options:  # from which it makes the file's own property
            made.info["exif"] = options.pop("exif").tobytes()
        made.save(file, quality=-1, **options)
    else:
        image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    depth: int, colour: int, row: bytes, *chunks: tuple[bytes, bytes], size: tuple[int, int] = (2, 1)
) -> bytes:
    """A PNG of that colour type (0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha), each row the same."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(b"\0" + row) for _ in range(size[1])) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
        + b"".join(png_chunk(*chunk) for chunk in chunks)
        + png_chunk(b"IDAT", packed)
        + png_chunk(b"IEND", b"")
    )


def box(kind: bytes, *bodies: bytes) -> bytes:
    """One of the boxes that AVIF and HEIC files are made of."""
    body = b"".join(bodies)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _followed() -> dict[str, Any]:
    """Options for a file in which another image follows, the same upside down."""
    return {"save_all": True, "append_images": [quarters().rotate(180)]}


def _files() -> dict[str, bytes]:
    exact = {"quality": 95, "subsampling": 0}
    clear = quarters().convert("RGBA")
    odd = encode("JPEG", **exact)
    return {
        "JPEG": encode("JPEG", **exact),
        "progressive JPEG": encode("JPEG", progressive=True, **exact),
        "JPEG with restarts": encode("JPEG", restart_marker_blocks=1, **exact),
        # As some phones and cameras write it, which TurboJPEG refuses: eight bytes too many before the end.
        "odd JPEG": odd[:-2] + bytes(8) + odd[-2:],
        "CMYK JPEG": encode("JPEG", quarters().convert("CMYK"), quality=95),
        "MPO": encode("MPO", **_followed(), **exact),
        "PNG": encode("PNG"),
        "animated PNG": encode("PNG", **_followed()),
        "lossy WebP": encode("WEBP", quality=95),
        "lossless WebP": encode("WEBP", clear, lossless=True),
        "animated WebP": encode("WEBP", lossless=True, **_followed()),
        "AVIF": encode("AVIF", quality=95),
        "AVIF with alpha": encode("AVIF", clear, quality=95),
        "HEIC": encode("HEIF", chroma="444"),
        "HEIC of tiles": encode("HEIF", chroma="444", tile_size=64),
        "GIF": encode("GIF"),
        "animated GIF": encode("GIF", **_followed()),
        "BMP": encode("BMP"),
        "BMP with a palette": encode("BMP", quarters().quantize(4)),
        "TIFF": encode("TIFF"),
        "TIFF of two pages": encode("TIFF", **_followed()),
        "TIFF by LZW": encode("TIFF", compression="tiff_lzw"),
        "TIFF by Deflate": encode("TIFF", compression="tiff_adobe_deflate"),
        "TIFF by JPEG": encode("TIFF", compression="jpeg", quality=95),
    }


FILES = _files()
