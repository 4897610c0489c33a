"""`python -m benchmarks.decode_memory [KIND]`: bytes per pixel that decoding takes at its peak, for each kind of file.

The table in `agegender.vision.decode` is what this prints, rounded up.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pillow_heif
from PIL import Image, ImageCms

SIDES = (4000, 3000)

_DECODE = r"""
import re, sys
from agegender.vision.decode import decode

def peak():
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])

small, large = (open(path, "rb").read() for path in sys.argv[1:])
decode(small)  # what is loaded once does not count
before = peak()
image = decode(large, 10**12)
print((peak() - before) / (image.shape[0] * image.shape[1]))
"""


def kinds() -> dict[str, Callable[[Image.Image], bytes]]:
    """How to encode an image as each kind of file; turned by EXIF where a decoder turns it for that."""
    turned = Image.Exif()
    turned[0x0112] = 6

    def pillow(name: str, mode: str = "RGB", **options: Any) -> Callable[[Image.Image], bytes]:
        def encode(image: Image.Image) -> bytes:
            file = io.BytesIO()
            second = {"append_images": [image.convert(mode).rotate(180)]} if "save_all" in options else {}
            image.convert(mode).save(file, name, **options, **second)
            return file.getvalue()

        return encode

    def png16(mode: str) -> Callable[[Image.Image], bytes]:
        def encode(image: Image.Image) -> bytes:
            pixels = np.asarray(image.convert(mode)).astype(np.uint16) * 257
            return cv2.imencode(".png", pixels)[1].tobytes()

        return encode

    def avif10(image: Image.Image) -> bytes:
        pixels = np.asarray(image.convert("RGBA")).astype(np.uint16) * 4
        options = [cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_SPEED, 10]
        return cv2.imencode(".avif", pixels, options)[1].tobytes()

    def heic(mode: str, **options: Any) -> Callable[[Image.Image], bytes]:
        def encode(image: Image.Image) -> bytes:
            file = io.BytesIO()
            made = pillow_heif.from_pillow(image.convert(mode))
            made.info["exif"] = turned.tobytes()
            made.save(file, quality=30, **options)
            return file.getvalue()

        return encode

    def heic10(image: Image.Image) -> bytes:
        pixels = np.asarray(image.convert("RGBA")).astype(np.uint16) * 257
        file = io.BytesIO()
        pillow_heif.from_bytes("RGBA;16", image.size, pixels.tobytes()).save(file, quality=30, chroma="444")
        return file.getvalue()

    def odd_jpeg(**options: Any) -> Callable[[Image.Image], bytes]:
        # A few bytes too many before the end, as some phones write them: Pillow decodes it.
        return lambda image: pillow("JPEG", **options)(image)[:-2] + bytes(8) + b"\xff\xd9"

    profile = _swapped_profile()
    made = {
        "JPEG": pillow("JPEG", exif=turned),
        "JPEG 4:4:4, profile": pillow("JPEG", subsampling=0, exif=turned, icc_profile=profile),
        "JPEG grey": pillow("JPEG", "L", exif=turned),
        "JPEG odd": odd_jpeg(subsampling=0, exif=turned),
        "JPEG CMYK": pillow("JPEG", "CMYK", exif=turned),
        "progressive JPEG": pillow("JPEG", progressive=True, exif=turned),
        "progressive JPEG 4:4:4": pillow("JPEG", progressive=True, subsampling=0, exif=turned),
        "progressive JPEG odd": odd_jpeg(progressive=True, subsampling=0, exif=turned),
        "progressive JPEG CMYK": pillow("JPEG", "CMYK", progressive=True, exif=turned),
        "PNG": pillow("PNG", exif=turned),
        "PNG alpha, profile": pillow("PNG", "RGBA", exif=turned, icc_profile=profile),
        "PNG palette": pillow("PNG", "P"),
        "PNG 16-bit grey": png16("L"),
        "PNG 16-bit": png16("RGB"),
        "PNG 16-bit alpha": png16("RGBA"),
        "PNG animated": pillow("PNG", "RGBA", save_all=True),
        "WEBP": pillow("WEBP", exif=turned),
        "WEBP alpha": pillow("WEBP", "RGBA", exif=turned),
        "WEBP lossless": pillow("WEBP", "RGBA", lossless=True, method=0),
        "WEBP animated": pillow("WEBP", "RGBA", save_all=True, method=0),
        "AVIF": pillow("AVIF", speed=10, exif=turned),
        "AVIF 4:4:4 alpha": pillow("AVIF", "RGBA", speed=10, subsampling="4:4:4", exif=turned),
        "AVIF 10-bit alpha": avif10,
        "HEIF": heic("RGB"),
        "HEIF tiles": heic("RGB", tile_size=512),
        "HEIF 4:4:4": heic("RGB", chroma="444"),
        "HEIF 4:4:4 alpha": heic("RGBA", chroma="444"),
        "HEIF 10-bit alpha": heic10,
        "GIF": pillow("GIF", "P"),
        "GIF animated": pillow("GIF", "P", save_all=True),
        "BMP": pillow("BMP"),
        "BMP alpha": pillow("BMP", "RGBA"),
        "TIFF 16-bit grey": pillow("TIFF", "I;16", exif=turned),
    }
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"):
        made[f"TIFF {compression}"] = pillow("TIFF", "RGBA", compression=compression, exif=turned)
    return made | {
        "TIFF jpeg": pillow("TIFF", compression="jpeg", exif=turned),
        "TIFF group4": pillow("TIFF", "1", compression="group4", exif=turned),
        "TIFF CMYK": pillow("TIFF", "CMYK", compression="tiff_lzw", exif=turned),
    }


def measure(start: str) -> Iterator[tuple[str, float]]:
    """Each kind of file whose name starts so, with its bytes per pixel."""
    width, height = SIDES
    side = np.linspace(0, 255, 500)
    tile = np.stack(
        [np.add.outer(side, side) / 2, np.add.outer(side, -side) % 256, np.add.outer(-side, side) % 256], 2
    )
    pixels = np.tile(tile.astype(np.uint8), (height // 500, width // 500, 1))
    image = Image.fromarray(np.dstack([pixels, pixels[:, :, 0] // 2 + 128]))
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("small", "large")]
        for kind, encode in kinds().items():
            if not kind.startswith(start):
                continue
            paths[0].write_bytes(encode(image.crop((0, 0, 64, 64))))
            paths[1].write_bytes(encode(image))
            done = subprocess.run(
                [sys.executable, "-c", _DECODE, *map(str, paths)], capture_output=True, text=True, check=True
            )
            yield kind, float(done.stdout)


def _swapped_profile() -> bytes:
    """sRGB with red and green exchanged: a profile that has work to do."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return re.sub(rb"rXYZ|gXYZ", lambda tag: b"gXYZ" if tag[0] == b"rXYZ" else b"rXYZ", profile)


if __name__ == "__main__":
    for name, bytes_per_pixel in measure(*sys.argv[1:] or [""]):
        print(f"{name:24} {bytes_per_pixel:5.1f}")
