"""`python -m benchmarks.decode_memory [KIND]`: the peak memory of decoding, in bytes per pixel, by kind of file.

The table in `agegender.vision.decode` holds these figures, rounded up.
"""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
import pillow_heif
from PIL import Image

_DECODE = r"""
import pickle, re, sys
from agegender.vision.decode import decode

def peak():
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])

small, large = pickle.load(sys.stdin.buffer)
decode(small)  # loads what is loaded once
before = peak()
image = decode(large, 10**12)
print((peak() - before) / (image.shape[0] * image.shape[1]))
"""

_TURNED = Image.Exif()
_TURNED[0x0112] = 6


def _pillow(kind: str, mode: str, image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image = image.convert(mode)
    if options.get("save_all"):
        options["append_images"] = [image.rotate(180)]
    image.save(file, kind, **options)
    return file.getvalue()


def _odd_jpeg(image: Image.Image, **options: Any) -> bytes:
    """Insert bytes before the end, as some phones do: Pillow decodes it, not TurboJPEG."""
    return _pillow("JPEG", "RGB", image, subsampling=0, exif=_TURNED, **options)[:-2] + bytes(8) + b"\xff\xd9"


def _avif10(image: Image.Image) -> bytes:
    pixels = np.asarray(image).astype(np.uint16) * 4
    options = [cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_SPEED, 10]
    return cv2.imencode(".avif", pixels, options)[1].tobytes()


def _heif(mode: str, image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    made = pillow_heif.from_pillow(image.convert(mode))
    made.info["exif"] = _TURNED.tobytes()
    made.save(file, quality=30, **options)
    return file.getvalue()


def _heif10(image: Image.Image) -> bytes:
    file = io.BytesIO()
    pixels = np.asarray(image).astype(np.uint16) * 257
    pillow_heif.from_bytes("RGBA;16", image.size, pixels.tobytes()).save(file, quality=30, chroma="444")
    return file.getvalue()


# Of each kind in the table, those with the most memory per pixel. EXIF turns what is turned after decoding.
_KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG": partial(_pillow, "JPEG", "RGB", subsampling=0, exif=_TURNED),
    "JPEG odd": _odd_jpeg,
    "JPEG CMYK": partial(_pillow, "JPEG", "CMYK", exif=_TURNED),
    "progressive JPEG odd": partial(_odd_jpeg, progressive=True),
    "progressive JPEG CMYK": partial(_pillow, "JPEG", "CMYK", progressive=True, exif=_TURNED),
    "PNG alpha": partial(_pillow, "PNG", "RGBA", exif=_TURNED),
    "PNG animated": partial(_pillow, "PNG", "RGBA", save_all=True),
    "WEBP alpha": partial(_pillow, "WEBP", "RGBA", exif=_TURNED),
    "WEBP lossless": partial(_pillow, "WEBP", "RGBA", lossless=True, method=0),
    "WEBP animated": partial(_pillow, "WEBP", "RGBA", save_all=True, method=0),
    "AVIF 4:4:4 alpha": partial(_pillow, "AVIF", "RGBA", speed=10, subsampling="4:4:4", exif=_TURNED),
    "AVIF 10-bit alpha": _avif10,
    "HEIF": partial(_heif, "RGB"),
    "HEIF tiles": partial(_heif, "RGB", tile_size=512),
    "HEIF 4:4:4 alpha": partial(_heif, "RGBA", chroma="444"),
    "HEIF 10-bit alpha": _heif10,
    "GIF animated": partial(_pillow, "GIF", "P", save_all=True),
    "BMP alpha": partial(_pillow, "BMP", "RGBA"),
    "TIFF raw": partial(_pillow, "TIFF", "RGBA", exif=_TURNED),
    "TIFF LZW": partial(_pillow, "TIFF", "RGBA", compression="tiff_lzw", exif=_TURNED),
    "TIFF CMYK": partial(_pillow, "TIFF", "CMYK", compression="tiff_lzw", exif=_TURNED),
}


def main(start: str = "") -> None:
    """Print the bytes per pixel of each kind of file whose name begins with `start`."""
    rows, columns = np.mgrid[:3000, :4000]
    channels = [rows + columns, rows - columns, columns - rows, rows // 2 + 128]
    image = Image.fromarray(np.stack([channel % 256 for channel in channels], axis=2).astype(np.uint8))
    for kind, encode in _KINDS.items():
        if kind.startswith(start):
            files = pickle.dumps((encode(image.crop((0, 0, 64, 64))), encode(image)))
            done = subprocess.run(
                [sys.executable, "-c", _DECODE], input=files, capture_output=True, check=True
            )
            print(f"{kind:24} {float(done.stdout):5.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
