"""Small image files, written out byte by byte where OpenCV's encoders cannot make them."""

from __future__ import annotations

import base64
import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

COLOURS = {"R": (230, 30, 30), "G": (30, 200, 30), "B": (30, 30, 230), "W": (240, 240, 240)}
"""RGB of the letters that name the quarters of the test picture."""

WIDTH, HEIGHT = 24, 16


def quarters() -> NDArray[np.uint8]:
    """(16, 24, 3) BGR: red and green above blue and white."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    for index, letter in enumerate("RGBW"):
        row, column = divmod(index, 2)
        image[row * 8 : row * 8 + 8, column * 12 : column * 12 + 12] = COLOURS[letter][::-1]
    return image


def read_quarters(image: NDArray[np.uint8], tolerance: int = 6) -> str:
    """The letters at the four corners of a BGR image, row by row; "?" for a colour that is none of them."""
    letters = ""
    for y, x in ((2, 2), (2, -3), (-3, 2), (-3, -3)):
        rgb = image[y, x, ::-1].astype(int)
        near = [name for name, colour in COLOURS.items() if np.abs(rgb - colour).max() <= tolerance]
        letters += near[0] if near else "?"
    return letters


def encode(extension: str, image: NDArray[np.generic] | None = None, *parameters: int) -> bytes:
    """`image`, or else the quarters, as OpenCV writes them."""
    ok, data = cv2.imencode(extension, quarters() if image is None else image, parameters)  # type: ignore[arg-type]
    assert ok
    return bytes(data.tobytes())


def animation(extension: str, first: NDArray[np.uint8] | None = None) -> bytes:
    """Two pictures, of which the first is `first`, or else the quarters."""
    if first is None:
        first = quarters()
    frames = cv2.Animation()
    frames.frames = [first, 255 - first]
    frames.durations = np.array([100, 100], np.int32)
    ok, data = cv2.imencodeanimation(extension, frames)
    assert ok
    return np.asarray(data, np.uint8).tobytes()


# PNG


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, depth: int, colour: int, pixels: bytes, *chunks: tuple[bytes, bytes]
) -> bytes:
    """A PNG of that colour type (0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha) from packed rows."""
    stride = len(pixels) // height
    rows = b"".join(b"\0" + pixels[row * stride : (row + 1) * stride] for row in range(height))
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        + b"".join(png_chunk(*chunk) for chunk in chunks)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


# EXIF


def exif(orientation: int, order: str = "<") -> bytes:
    """EXIF data (a TIFF file) with a maker's name and then the orientation."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(order + "HHI4s", 0x010F, 2, 4, b"abc\0")
    entries += struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return head + struct.pack(order + "IH", 8, 2) + entries + bytes(4)


def oriented_jpeg(orientation: int, order: str = "<") -> bytes:
    body = b"Exif\0\0" + exif(orientation, order)
    jpeg = encode(".jpg", None, cv2.IMWRITE_JPEG_QUALITY, 95)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def oriented_png(orientation: int) -> bytes:
    data = encode(".png")
    return data[:33] + png_chunk(b"eXIf", exif(orientation)) + data[33:]


def riff(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def oriented_webp(orientation: int) -> bytes:
    size = (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little")
    has_exif = 0x08
    chunks = riff(b"VP8X", bytes([has_exif, 0, 0, 0]) + size) + encode(".webp")[12:]
    return riff(b"RIFF", b"WEBP" + chunks + riff(b"EXIF", exif(orientation)))


# The quarters as libavif writes them with its properties `irot`, turning anticlockwise, and `imir`, mirroring.
_AVIF_TURNED = base64.b64decode(
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAAD1bWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAA"
    "AAAAAAAOcGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAEdAAAANwAAAChpaW5mAAAAAAABAAAAGmluZmUCAAAAAAEA"
    "AGF2MDFDb2xvcgAAAAB0aXBycAAAAFRpcGNvAAAAFGlzcGUAAAAAAAAAGAAAABAAAAAQcGl4aQAAAAADCAgIAAAADGF2MUOBIAAA"
    "AAAAE2NvbHJuY2x4AAEADQAGgAAAAAlpcm90AwAAABhpcG1hAAAAAAAAAAEAAQUBAoMEhQAAAD9tZGF0EgAKCDgQ7+0gIaDSMilF"
    "cJjJKFFFF8oAAAEA3qEHbaSYexxhlyHlZKMRkHYza5naXZVZrXrEwA=="
)
_AVIF_TURNED_AND_MIRRORED = base64.b64decode(
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAAD/bWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAA"
    "AAAAAAAOcGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAEnAAAANwAAAChpaW5mAAAAAAABAAAAGmluZmUCAAAAAAEA"
    "AGF2MDFDb2xvcgAAAAB+aXBycAAAAF1pcGNvAAAAFGlzcGUAAAAAAAAAGAAAABAAAAAQcGl4aQAAAAADCAgIAAAADGF2MUOBIAAA"
    "AAAAE2NvbHJuY2x4AAEADQAGgAAAAAlpcm90AQAAAAlpbWlyAAAAABlpcG1hAAAAAAAAAAEAAQYBAoMEhYYAAAA/bWRhdBIACgg4"
    "EO/tICGg0jIpRXCYyShRRRfKAAABAN6hB22kmHscYZch5WSjEZB2M2uZ2l2VWa16xMA="
)


def oriented_avif(quarter_turns: int, mirror_axis: int | None) -> bytes:
    """The quarters, to be turned anticlockwise, then mirrored: axis 0 swaps top and bottom, 1 left and right."""
    data = bytearray(_AVIF_TURNED if mirror_axis is None else _AVIF_TURNED_AND_MIRRORED)
    data[data.index(b"irot") + 4] = quarter_turns
    if mirror_axis is not None:
        data[data.index(b"imir") + 4] = mirror_axis
    return bytes(data)


# The quarters in CMYK, as photo editors write it: inverted, with Adobe's marker.
CMYK_JPEG = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwAGBAUGBQQGBgUGBwcGCAoQCgoJCQoUDg8MEBcUGBgXFBYWGh0lHxobIxwWFiAsICMmJykqKRkf"
    "LTAtKDAlKCko/8AAFAgAEAAYBEMRAE0RAFkRAEsRAP/EABgAAQEBAQEAAAAAAAAAAAAAAAgAAwcJ/8QAGxABAAMBAAMAAAAAAAAAAAAA"
    "AAhGhMMEQoH/2gAOBEMATQBZAEsAAD8ARA+D4VI9S1quvi7lGWyZuqQ8u4pIHHoWiMiDbcnYjIg23J2b+N7fERhGNk//2Q=="
)


# AVIF by hand


def box(kind: bytes, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def avif_with_tables(ipma: bytes, iloc: bytes, *more: bytes) -> bytes:
    """An AVIF file of one AV1 item, with these tables of properties and of places and with no picture."""
    return box(b"ftyp", b"avif\0\0\0\0avifmif1") + box(
        b"meta",
        bytes(4),
        box(b"pitm", b"\0\0\0\0\0\1"),
        box(b"iprp", box(b"ipco", box(b"ispe", struct.pack(">III", 0, 8, 8))), box(b"ipma", ipma)),
        box(b"iinf", struct.pack(">IH", 0, 1), box(b"infe", b"\2\0\0\0\0\1\0\0av01\0")),
        box(b"iloc", iloc),
        *more,
    )


# All of them


def with_alpha(alpha: int) -> np.ndarray:
    return np.dstack([quarters(), np.full((HEIGHT, WIDTH), alpha, np.uint8)])


FILES: dict[str, bytes] = {
    "JPEG": encode(".jpg", None, cv2.IMWRITE_JPEG_QUALITY, 95),
    "progressive JPEG": encode(".jpg", None, cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "JPEG with restarts": encode(
        ".jpg", None, cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_RST_INTERVAL, 1
    ),
    "CMYK JPEG": CMYK_JPEG,
    "PNG": encode(".png"),
    "lossless WebP": encode(".webp"),
    "lossy WebP": encode(".webp", None, cv2.IMWRITE_WEBP_QUALITY, 95),
    "WebP with alpha": encode(".webp", with_alpha(255)),
    "animated WebP": animation(".webp"),
    "animated PNG": animation(".png"),
    "BMP": encode(".bmp"),
    "AVIF": encode(".avif", None, cv2.IMWRITE_AVIF_QUALITY, 95),
    "AVIF with alpha": encode(".avif", with_alpha(255), cv2.IMWRITE_AVIF_QUALITY, 95),
}
