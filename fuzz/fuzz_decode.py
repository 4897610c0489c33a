"""Atheris against the decoder: whatever the bytes, it gives a picture within its limits or one of its two exceptions.

Run by `make fuzz`; options are libFuzzer's. What is found is stored as fuzz/crash-*, which this runs again by name.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["agegender.vision"]):
    from agegender.vision.decode import ImageTooLarge, ImageUnreadable, decode

FOLDER = Path(__file__).parent
MAX_PIXELS = 200_000


def decode_one(data: bytes) -> None:
    """Decode, or be refused as callers are prepared for; anything else is a finding."""
    try:
        image = decode(data, MAX_PIXELS)
    except (ImageUnreadable, ImageTooLarge):
        return
    height, width, channels = image.shape
    if image.dtype != "uint8" or channels != 3 or not 0 < height * width <= MAX_PIXELS:
        raise AssertionError(f"a picture of {image.shape} {image.dtype}")


def main() -> None:
    """Fuzz from whole small files of every kind, and from those that tests make by hand."""
    sys.path.insert(0, str(FOLDER.parent / "tests"))
    import hostile_files
    import image_files

    with tempfile.TemporaryDirectory() as corpus:
        seeds = {**image_files.FILES, **hostile_files.polyglots(), **hostile_files.busy_tables()}
        seeds |= {
            f"turned {make.__name__}": make(6)
            for make in (image_files.oriented_jpeg, image_files.oriented_png)
        }
        seeds["turned WebP"] = image_files.oriented_webp(6)
        seeds["turned AVIF"] = image_files.oriented_avif(1, 0)
        for index, data in enumerate(seeds.values()):
            (Path(corpus) / str(index)).write_bytes(data)
        limits = ["-max_len=4096", "-timeout=10", "-rss_limit_mb=2048", f"-artifact_prefix={FOLDER}/"]
        files = [option for option in sys.argv[1:] if not option.startswith("-")]
        atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], *([] if files else [corpus])], decode_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
