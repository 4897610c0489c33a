"""Atheris against the decoder: whatever the bytes, it gives a picture within its limits or one of its two exceptions.

Run by `make fuzz`; options are libFuzzer's. What is found is stored as fuzz/crash-*, which this runs again by name.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

# Pillow raises whatever its readers trip over: what they do is what the fuzzer shall see.
with atheris.instrument_imports(include=["agegender.vision", "PIL", "pillow_heif"]):
    from agegender.vision.decode import ImageTooLarge, ImageUnreadable, decode

FOLDER = Path(__file__).parent
MAX_MEMORY = 4_000_000


def decode_one(data: bytes) -> None:
    """Decode, or be refused as callers are prepared for; anything else is a finding."""
    try:
        image = decode(data, MAX_MEMORY)
    except (ImageUnreadable, ImageTooLarge):
        return
    height, width, channels = image.shape
    if image.dtype != "uint8" or channels != 3 or not 0 < height * width * 3 <= MAX_MEMORY:
        raise AssertionError(f"a picture of {image.shape} {image.dtype}")


def main() -> None:
    """Fuzz from whole small files of every kind, and from those that tests make by hand."""
    sys.path.insert(0, str(FOLDER.parent / "tests"))
    import hostile_files
    import image_files

    turned = {
        f"turned {kind}": image_files.encode(kind, exif=image_files.exif(6))
        for kind in ("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "TIFF")
    }
    with tempfile.TemporaryDirectory() as corpus:
        seeds = {**image_files.FILES, **hostile_files.polyglots(), **turned}
        for index, data in enumerate(seeds.values()):
            (Path(corpus) / str(index)).write_bytes(data)
        limits = ["-max_len=4096", "-timeout=10", "-rss_limit_mb=2048", f"-artifact_prefix={FOLDER}/"]
        files = [option for option in sys.argv[1:] if not option.startswith("-")]
        atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], *([] if files else [corpus])], decode_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
