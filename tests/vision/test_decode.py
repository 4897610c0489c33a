from __future__ import annotations

import json
import pickle
import re
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest
from agegender.vision import av1
from agegender.vision.decode import ImageTooLarge, ImageUnreadable, decode
from hostile_files import costly_headers, foreign_files, too_many_pixels
from image_files import FILES, HEIGHT, WIDTH, box, encode, exif, png, png_chunk, quarters, read_quarters
from PIL import Image, ImageCms

each_file = pytest.mark.parametrize("kind", FILES)


def complaint(data: bytes, **limits: int) -> str:
    """What is said of a file that is not read: sentences, with nothing of what runs inside."""
    with pytest.raises((ImageUnreadable, ImageTooLarge)) as raised:
        decode(data, **limits)
    assert raised.value.__cause__ is None
    text = str(raised.value)
    assert re.fullmatch(r"[A-Z][^\n/\\_]+\.", text), text
    assert not re.search(r"pillow|PIL|struct\.|index|buffer|error|0x", text), text
    return text


# What is read


@each_file
def test_content_decides_the_kind_and_every_kind_becomes_8_bit_bgr(kind: str) -> None:
    image = decode(FILES[kind])
    assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert image.flags.c_contiguous
    assert read_quarters(image) == "RGBW"
    assert np.array_equal(decode(memoryview(FILES[kind])), image)


@pytest.mark.parametrize("kind", [kind for kind in FILES if not kind.startswith(("AVIF", "HEIC"))])
def test_bytes_behind_the_image_make_no_difference(kind: str) -> None:
    # Phones append films to photographs.
    assert np.array_equal(decode(FILES[kind] + b"\xff\xd9 and more" * 9), decode(FILES[kind]))


# What of the upright picture the corners show when the file says orientation 1 to 8 (EXIF 2.3, section 4.6.4):
# its first row lies top, top, bottom, bottom, left, right, right, left,
# its first column left, right, right, left, top, top, bottom, bottom.
UPRIGHT = ("RGBW", "GRWB", "WBGR", "BWRG", "RBGW", "BRWG", "WGBR", "GWRB")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(kind: str, orientation: int) -> None:
    # AVIF and HEIC have properties of their own for it, which these encoders write.
    image = decode(encode(kind, exif=exif(orientation)))
    assert image.shape == ((HEIGHT, WIDTH, 3) if orientation < 5 else (WIDTH, HEIGHT, 3))
    assert read_quarters(image, tolerance=30) == UPRIGHT[orientation - 1]


def test_broken_exif_is_ignored() -> None:
    for nonsense in (0, 9, 65535):
        assert read_quarters(decode(encode("JPEG", exif=exif(nonsense), quality=95))) == "RGBW"
    turned = encode("JPEG", exif=exif(6), quality=95)
    directory = turned.index(b"Exif\0\0") + 10
    beyond_the_end = turned[:directory] + b"\xf8\xf8\xf8\xf8" + turned[directory + 4 :]
    assert read_quarters(decode(beyond_the_end)) == "RGBW"


TWO_COLOURS = (b"PLTE", bytes([10, 20, 30, 200, 210, 220]))


@pytest.mark.parametrize(
    ("file", "rgb"),
    [
        (png(1, 0, bytes([0b01_000000])), [(0, 0, 0), (255, 255, 255)]),
        (png(4, 0, bytes([0x1F])), [(17, 17, 17), (255, 255, 255)]),
        (png(16, 0, struct.pack(">HH", 10 * 257, 200 * 257)), [(10, 10, 10), (200, 200, 200)]),
        (
            png(16, 2, struct.pack(">6H", *(257 * k for k in (1, 2, 3, 201, 202, 203)))),
            [(1, 2, 3), (201, 202, 203)],
        ),
        (png(1, 0, bytes([0b01_000000]), (b"tRNS", b"\0\0")), [(255, 255, 255), (255, 255, 255)]),
        (png(8, 0, bytes([0, 1]), (b"tRNS", b"\0\0")), [(255, 255, 255), (1, 1, 1)]),
        (
            png(16, 0, struct.pack(">HH", 10 * 257, 10 * 257 + 1), (b"tRNS", struct.pack(">H", 2570))),
            [(255, 255, 255), (10, 10, 10)],
        ),
        (png(8, 3, bytes([0, 1]), TWO_COLOURS), [(10, 20, 30), (200, 210, 220)]),
        (png(1, 3, bytes([0b01_000000]), TWO_COLOURS), [(10, 20, 30), (200, 210, 220)]),
        (png(8, 3, bytes([0, 1]), TWO_COLOURS, (b"tRNS", b"\0")), [(255, 255, 255), (200, 210, 220)]),
        (png(8, 2, bytes([1, 2, 3, 4, 5, 6]), (b"tRNS", b"\0\1\0\2\0\3")), [(255, 255, 255), (4, 5, 6)]),
        (png(8, 4, bytes([10, 255, 200, 0])), [(10, 10, 10), (255, 255, 255)]),
        (png(8, 6, bytes([10, 20, 30, 255, 0, 100, 200, 51])), [(10, 20, 30), (204, 224, 244)]),
        (png(16, 4, struct.pack(">4H", 2570, 65535, 0, 0)), [(10, 10, 10), (255, 255, 255)]),
        (
            png(16, 6, struct.pack(">8H", *(257 * k for k in (10, 20, 30, 255, 0, 100, 200, 51)))),
            [(10, 20, 30), (204, 224, 244)],
        ),
    ],
    ids=[
        "1-bit grey", "4-bit grey", "16-bit grey", "16-bit", "transparent 1-bit grey", "transparent grey",
        "transparent 16-bit grey", "palette", "1-bit palette", "palette with alpha", "transparent colour",
        "grey and alpha", "alpha", "16-bit grey and alpha", "16-bit alpha",
    ],
)  # fmt: skip
def test_every_kind_of_png_pixel(file: bytes, rgb: list[tuple[int, int, int]]) -> None:
    image = decode(file)
    assert (image.shape, image.dtype) == ((1, 2, 3), np.uint8)
    assert np.abs(image[0, :, ::-1].astype(int) - rgb).max() <= 1


@pytest.mark.parametrize(
    ("kind", "mode"), [("TIFF", "1"), ("TIFF", "I;16"), ("TIFF", "CMYK"), ("BMP", "L"), ("JPEG", "L")]
)
def test_other_modes_become_colour(kind: str, mode: str) -> None:
    level = {"1": 1, "I;16": 200 * 257, "CMYK": (55, 55, 55, 0), "L": 200}[mode]
    image = decode(encode(kind, Image.new(mode, (20, 10), level)))
    assert np.abs(image.astype(int) - (255 if mode == "1" else 200)).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "HEIF", "TIFF"])
def test_transparency_shows_white(kind: str) -> None:
    image = quarters().convert("RGBA")
    image.putalpha(128)
    half = decode(encode(kind, image)).astype(int)
    # Median, because lossy kinds smear colour across the edges between the quarters.
    assert (
        np.median(np.abs(half[..., ::-1] - (np.asarray(quarters()).astype(int) * 128 + 255 * 127) / 255)) <= 1
    )
    image.putalpha(0)
    assert decode(encode(kind, image)).min() >= 252


def test_a_transparent_gif_shows_white() -> None:
    image = Image.new("P", (20, 10), 1)
    image.putpalette([250, 0, 0, 0, 250, 0])
    image.paste(0, (0, 0, 10, 10))
    assert decode(encode("GIF", image, transparency=0))[5, [5, 15]].tolist() == [[255, 255, 255], [0, 250, 0]]


def test_ten_bits_are_scaled_to_eight() -> None:
    ten_bit = (np.asarray(quarters())[..., ::-1].astype(int) * 1023 // 255).astype(np.uint16)
    options = [cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_QUALITY, 100]
    assert read_quarters(decode(cv2.imencode(".avif", ten_bit, options)[1].tobytes())) == "RGBW"


# Colour profiles


def profile_with(tags: dict[bytes, tuple[float, float, float]]) -> bytes:
    """sRGB's profile with other primaries, as XYZ."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for index in range(struct.unpack_from(">I", profile, 128)[0]):
        tag, offset, _ = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        if tag in tags:
            struct.pack_into(">iii", profile, offset + 8, *(round(65536 * value) for value in tags[tag]))
    return bytes(profile)


# As published by Apple, in the white of ICC profiles.
DISPLAY_P3 = profile_with(
    {
        b"rXYZ": (0.51512, 0.24120, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.15710, 0.06657, 0.78407),
    }
)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "HEIF"])
def test_a_colour_profile_is_applied(kind: str) -> None:
    # A skin tone in Display P3, the colour space of iPhones, and its sRGB values by the matrices of CSS Color 4.
    lossless = {"quality": 100} | ({"lossless": True} if kind == "WEBP" else {})
    options = {"HEIF": {"chroma": "444"}, "PNG": {}, "TIFF": {}}.get(kind, lossless)
    skin = Image.new("RGB", (32, 32), (220, 170, 140))
    image = decode(encode(kind, skin, icc_profile=DISPLAY_P3, **options))
    assert np.abs(image[16, 16, ::-1].astype(int) - (229, 167, 135)).max() <= 3
    plain = decode(encode(kind, skin, icc_profile=profile_with({}), **options))
    assert np.abs(plain[16, 16, ::-1].astype(int) - (220, 170, 140)).max() <= 2


@pytest.mark.parametrize("profile", [b"no profile", DISPLAY_P3[:300]])
def test_a_broken_profile_is_ignored(profile: bytes) -> None:
    for kind in ("JPEG", "PNG"):
        assert read_quarters(decode(encode(kind, icc_profile=profile)), tolerance=30) == "RGBW"


# What is not


@each_file
def test_a_file_cut_short_is_no_picture(kind: str) -> None:
    data = FILES[kind]
    last = len(data)
    if kind in ("MPO", "GIF", "animated GIF", "TIFF of two pages"):
        last = len(data) // 3  # The first image may be whole, or all but its end mark.
    for length in range(0, last, 1 if last < 1000 else 7):
        with pytest.raises(ImageUnreadable):
            decode(data[:length])


@pytest.mark.parametrize("level", [64, 128])
def test_a_grey_jpeg_is_a_picture_all_the_same(level: int) -> None:
    for mode in ("L", "RGB"):
        assert (decode(encode("JPEG", Image.new("L", (40, 40), level).convert(mode))) == level).all()


def test_a_png_without_all_of_its_rows_is_no_picture() -> None:
    whole = encode("PNG", Image.effect_noise((96, 96), 80))
    start, end = whole.index(b"IDAT") + 4, whole.index(b"IEND") - 4
    header, rows = whole[: start - 8], whole[start : end - 4]
    for missing in (b"", rows[: len(rows) // 2]):
        complaint(header + png_chunk(b"IDAT", missing) + png_chunk(b"IEND", b""))
    complaint(header + png_chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"no image", "not a readable image. Send a JPEG, PNG, WebP, HEIC, AVIF, GIF, TIFF or BMP file"),
        (b"GIF89a" + bytes(60), "not a readable image"),
        (box(b"ftyp", b"heic\0\0\0\0mif1heic"), "not a readable image"),
        (encode("AVIF", save_all=True, append_images=[quarters()]), "of a rare kind that is not read"),
        (encode("TIFF", Image.new("F", (8, 8))), "of a rare kind that is not read"),
    ],
)
def test_what_is_not_read_is_said_in_a_sentence(data: bytes, words: str) -> None:
    assert words in complaint(data)


@pytest.mark.parametrize("kind", foreign_files())
def test_kinds_that_are_not_wanted_reach_no_decoder(kind: str) -> None:
    assert "not a readable image" in complaint(foreign_files()[kind])


# Bounds


DECODE = r"""
import json, pickle, re, sys, time
from agegender.vision.decode import ImageTooLarge, ImageUnreadable, decode

def peak():
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])

results = []
for data, max_memory in pickle.load(sys.stdin.buffer):
    open("/proc/self/clear_refs", "w").write("5")  # which resets the peak
    before, begun = peak(), time.process_time()
    try:
        decode(data, max_memory)
        what = "read"
    except (ImageTooLarge, ImageUnreadable) as error:
        what = type(error).__name__
    results.append((what, time.process_time() - begun, peak() - before))
print(json.dumps(results))
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux shows it")


def decode_apart(*files: tuple[bytes, int]) -> list[tuple[str, float, int]]:
    """What came of each in a process of their own, with which bound: processor seconds, and bytes of memory."""
    command = [sys.executable, "-c", DECODE]
    done = subprocess.run(command, input=pickle.dumps(files), capture_output=True, check=True, timeout=120)
    results: list[tuple[str, float, int]] = json.loads(done.stdout)
    return results


@linux
def test_a_bomb_costs_neither_time_nor_memory() -> None:
    bombs = {**too_many_pixels(), **costly_headers()}
    results = decode_apart(*((data, 400_000_000) for data in bombs.values()))
    for name, (what, seconds, peak) in zip(bombs, results, strict=True):
        assert what != "read", name
        assert seconds < 2, name
        assert peak < 50e6, name


@linux
def test_what_is_read_takes_no_more_memory_than_allowed() -> None:
    image = Image.new("RGBA", (2400, 1600), (90, 120, 60, 200))
    files = [
        (encode("JPEG", image.convert("RGB"), exif=exif(6)), 8),
        (encode("JPEG", image.convert("RGB"), progressive=True, subsampling=0, exif=exif(6)), 13),
        (encode("JPEG", image.convert("CMYK"), progressive=True, exif=exif(6)), 13),
        (encode("PNG", image, exif=exif(6)), 8),
        (encode("WEBP", image, method=0, exif=exif(6)), 17),
        (encode("AVIF", image, speed=10, subsampling="4:4:4", exif=exif(6)), 15),
        (encode("HEIF", image.convert("RGB"), exif=exif(6)), 8),
        (encode("HEIF", image, chroma="444", exif=exif(6)), 21),
        (encode("GIF", image.convert("P")), 5),
        (encode("TIFF", image, compression="tiff_lzw", exif=exif(6)), 9),
    ]
    pixels = image.width * image.height
    warm = [
        (FILES[kind], 10**9)
        for kind in ("JPEG", "CMYK JPEG", "PNG", "lossy WebP", "AVIF", "HEIC", "GIF", "TIFF")
    ]
    results = decode_apart(*warm, *((data, cost * pixels) for data, cost in files))[len(warm) :]
    for index, ((data, cost), (what, _, peak)) in enumerate(zip(files, results, strict=True)):
        assert what == "read", index
        assert peak < cost * pixels, index
        assert "pixels" in complaint(data, max_memory=cost * pixels - 1)


def test_the_default_lets_a_photograph_of_48_megapixels_in() -> None:
    photograph = encode("JPEG", Image.new("RGB", (8064, 6048), (90, 120, 60)), quality=50)
    assert decode(photograph).shape == (6048, 8064, 3)


def test_the_bound_is_named_in_pixels_of_this_kind() -> None:
    bomb = complaint(too_many_pixels()["PNG of 70 million"])
    assert bomb.startswith(
        "The image has 70.0 million pixels; at most 50.0 million are allowed for this kind of file."
    )


def test_every_frame_of_an_avif_counts() -> None:
    file = encode("AVIF")
    stream = file[file.index(b"mdat") + 4 :]
    places = file.index(b"iloc") + 4
    assert av1.coded_pixels(file) == WIDTH * HEIGHT
    thrice = bytearray(file + 2 * stream)
    length = thrice.index(struct.pack(">I", len(stream)), places)
    thrice[length : length + 4] = struct.pack(">I", 3 * len(stream))
    thrice[thrice.index(b"mdat") - 4 :][:4] = b""
    assert av1.coded_pixels(bytes(thrice)) == 3 * WIDTH * HEIGHT
