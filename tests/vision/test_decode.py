from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from agegender.vision.av1 import coded_pixels
from agegender.vision.decode import ImageTooLarge, ImageUnreadable, decode
from hostile_files import busy_tables, damaged_files, too_many_pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import (
    FILES,
    HEIGHT,
    WIDTH,
    animation,
    box,
    encode,
    oriented_avif,
    oriented_jpeg,
    oriented_png,
    oriented_webp,
    png,
    png_chunk,
    quarters,
    read_quarters,
    riff,
    with_alpha,
)

each_file = pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())


def complaint(data: bytes, **limits: int) -> str:
    """What is said of a file that is not read: one or more sentences, with nothing of what runs inside."""
    with pytest.raises((ImageUnreadable, ImageTooLarge)) as raised:
        decode(data, **limits)
    assert raised.value.__cause__ is None
    text = str(raised.value)
    assert re.fullmatch(r"[A-Z][^\n/\\_]+\.", text), text
    assert not re.search(r"opencv|cv2|lib|struct\.|index|buffer|error|0x", text, re.IGNORECASE), text
    return text


# What is read


@each_file
def test_content_decides_the_format_and_every_format_becomes_8_bit_bgr(data: bytes) -> None:
    image = decode(data)
    assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert read_quarters(image, tolerance=12) == "RGBW"


@each_file
def test_a_memoryview_and_trailing_bytes_make_no_difference(data: bytes) -> None:
    assert np.array_equal(decode(memoryview(data)), decode(data))
    if data[4:8] != b"ftyp":  # where a file of boxes goes on with what is no box, it is damaged
        assert np.array_equal(decode(data + b"\xff\xd9 and more" * 9), decode(data))


# What of the upright picture the corners show when the file says orientation 1 to 8 (EXIF 2.3, section 4.6.4):
# its first row lies top, top, bottom, bottom, left, right, right, left,
# its first column left, right, right, left, top, top, bottom, bottom.
UPRIGHT = ("RGBW", "GRWB", "WBGR", "BWRG", "RBGW", "BRWG", "WGBR", "GWRB")


@pytest.mark.parametrize("make", [oriented_jpeg, oriented_png, oriented_webp])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(make: Callable[[int], bytes], orientation: int) -> None:
    image = decode(make(orientation))
    assert image.shape == ((HEIGHT, WIDTH, 3) if orientation < 5 else (WIDTH, HEIGHT, 3))
    assert read_quarters(image, tolerance=12) == UPRIGHT[orientation - 1]


def test_exif_is_read_in_either_byte_order_and_ignored_where_it_is_nonsense() -> None:
    assert read_quarters(decode(oriented_jpeg(6, ">")), tolerance=12) == UPRIGHT[5]
    for nonsense in (0, 9, 65535):
        assert read_quarters(decode(oriented_jpeg(nonsense)), tolerance=12) == "RGBW"
    broken = oriented_jpeg(6).replace(b"II*\0\x08", b"II*\0\xf8")  # the directory lies beyond the end
    assert read_quarters(decode(broken), tolerance=12) == "RGBW"


@pytest.mark.parametrize(
    ("quarter_turns", "mirror_axis", "corners"),
    [
        (0, None, "RGBW"), (1, None, "GWRB"), (2, None, "WBGR"), (3, None, "BRWG"),
        (0, 0, "BWRG"), (1, 0, "RBGW"), (2, 0, "GRWB"), (3, 0, "WGBR"),
        (0, 1, "GRWB"), (1, 1, "WGBR"), (2, 1, "BWRG"), (3, 1, "RBGW"),
    ],
)  # fmt: skip
def test_avif_is_turned_and_mirrored_by_its_own_properties(
    quarter_turns: int, mirror_axis: int | None, corners: str
) -> None:
    image = decode(oriented_avif(quarter_turns, mirror_axis))
    assert image.shape == ((WIDTH, HEIGHT, 3) if quarter_turns % 2 else (HEIGHT, WIDTH, 3))
    assert read_quarters(image) == corners


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".bmp", ".avif"])
def test_grey_becomes_three_equal_channels(extension: str) -> None:
    grey = np.full((HEIGHT, WIDTH), 90, np.uint8)
    grey[:, 12:] = 170
    image = decode(encode(extension, grey))
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(image.astype(int) - grey[:, :, np.newaxis]).max() <= 2


TWO_COLOURS = (b"PLTE", bytes([10, 20, 30, 200, 210, 220]))


@pytest.mark.parametrize(
    ("file", "rgb"),
    [
        (png(2, 1, 1, 0, bytes([0b01_000000])), [(0, 0, 0), (255, 255, 255)]),
        (png(2, 1, 4, 0, bytes([0x1F])), [(17, 17, 17), (255, 255, 255)]),
        (png(2, 1, 16, 0, struct.pack(">HH", 10 * 257, 200 * 257)), [(10, 10, 10), (200, 200, 200)]),
        (
            png(2, 1, 16, 2, struct.pack(">6H", *(257 * k for k in (1, 2, 3, 201, 202, 203)))),
            [(1, 2, 3), (201, 202, 203)],
        ),
        (png(2, 1, 1, 0, bytes([0b01_000000]), (b"tRNS", b"\0\0")), [(255, 255, 255), (255, 255, 255)]),
        (png(2, 1, 4, 0, bytes([0x12]), (b"tRNS", b"\0\1")), [(255, 255, 255), (34, 34, 34)]),
        (png(2, 1, 8, 0, bytes([0, 1]), (b"tRNS", b"\0\0")), [(255, 255, 255), (1, 1, 1)]),
        (
            png(2, 1, 16, 0, struct.pack(">HH", 10 * 257, 10 * 257 + 1), (b"tRNS", struct.pack(">H", 2570))),
            [(255, 255, 255), (10, 10, 10)],
        ),
        (png(2, 1, 8, 3, bytes([0, 1]), TWO_COLOURS), [(10, 20, 30), (200, 210, 220)]),
        (png(2, 1, 1, 3, bytes([0b01_000000]), TWO_COLOURS), [(10, 20, 30), (200, 210, 220)]),
        (png(2, 1, 8, 3, bytes([0, 1]), TWO_COLOURS, (b"tRNS", b"\0")), [(255, 255, 255), (200, 210, 220)]),
        (png(2, 1, 8, 2, bytes([1, 2, 3, 4, 5, 6]), (b"tRNS", b"\0\1\0\2\0\3")), [(255, 255, 255), (4, 5, 6)]),
        (png(2, 1, 8, 4, bytes([10, 255, 200, 0])), [(10, 10, 10), (255, 255, 255)]),
        (png(2, 1, 8, 6, bytes([10, 20, 30, 255, 0, 100, 200, 51])), [(10, 20, 30), (204, 224, 244)]),
        (png(2, 1, 16, 4, struct.pack(">4H", 2570, 65535, 0, 0)), [(10, 10, 10), (255, 255, 255)]),
        (
            png(2, 1, 16, 6, struct.pack(">8H", *(257 * k for k in (10, 20, 30, 255, 0, 100, 200, 51)))),
            [(10, 20, 30), (204, 224, 244)],
        ),
    ],
    ids=[
        "1-bit grey", "4-bit grey", "16-bit grey", "16-bit", "transparent 1-bit grey",
        "transparent 4-bit grey", "transparent grey", "transparent 16-bit grey", "palette", "1-bit palette",
        "palette with alpha", "transparent colour", "grey and alpha", "alpha", "16-bit grey and alpha", "16-bit alpha",
    ],
)  # fmt: skip
def test_every_kind_of_png_pixel(file: bytes, rgb: list[tuple[int, int, int]]) -> None:
    image = decode(file)
    assert (image.shape, image.dtype) == ((1, 2, 3), np.uint8)
    assert np.abs(image[0, :, ::-1].astype(int) - rgb).max() <= 1


@pytest.mark.parametrize("extension", [".png", ".webp", ".avif"])
def test_transparency_shows_white(extension: str) -> None:
    half = decode(encode(extension, with_alpha(128))).astype(int)
    # Median, because AVIF smears colour across the edges between the quarters.
    assert np.median(np.abs(half - (quarters().astype(int) * 128 + 255 * 127) / 255)) <= 1
    assert decode(encode(extension, with_alpha(0))).min() >= 252


@pytest.mark.parametrize("alpha", [False, True])
def test_ten_bit_avif_is_scaled_to_eight(alpha: bool) -> None:
    ten_bit = ((with_alpha(255) if alpha else quarters()).astype(int) * 1023 // 255).astype(np.uint16)
    depth = (cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_QUALITY, 100)
    image = decode(encode(".avif", ten_bit, *depth))
    assert image.dtype == np.uint8
    assert read_quarters(image) == "RGBW"


def test_a_16_bit_bmp_and_one_from_top_to_bottom() -> None:
    blue, green, red = np.moveaxis(quarters().astype("<u2") >> 3, 2, 0)
    pixels = (red << 10 | green << 5 | blue).tobytes()
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, -HEIGHT, 1, 16, 0, len(pixels), 0, 0, 0, 0)
    file = b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + info + pixels
    assert read_quarters(decode(file), tolerance=8) == "RGBW"


def masked_bmp(
    header: int, depth: int, masks: tuple[int, int, int], image: np.ndarray | None = None
) -> bytes:
    """`image`, or else the quarters, in pixels that hold its colours as `masks` do; `header` bytes tell of it."""
    image = quarters() if image is None else image
    height, width = image.shape[:2]
    pixels = np.zeros((height, width), np.int64)
    for channel, mask in zip((2, 1, 0), masks, strict=True):
        lowest = mask & -mask
        levels = np.rint(image[..., channel] / 255 * (mask // lowest))
        pixels += levels.astype(np.int64) * lowest
    data = pixels.astype(f"<u{depth // 8}").tobytes()
    info = struct.pack("<IiiHHIIiiII", header, width, -height, 1, depth, 3, len(data), 0, 0, 0, 0)
    info = (info + struct.pack("<III", *masks)).ljust(header, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(info) + len(data), 0, 0, 14 + len(info)) + info + data


@pytest.mark.parametrize("header", [40, 52, 56, 108, 124])
@pytest.mark.parametrize(
    ("depth", "masks"),
    [
        (16, (0xF800, 0x07E0, 0x001F)),
        (16, (0x7C00, 0x03E0, 0x001F)),
        (32, (0xFF0000, 0xFF00, 0xFF)),
        (32, (0xFF, 0xFF00, 0xFF0000)),
        (32, (0xFF000000, 0xFF0000, 0xFF00)),
        (32, (0x3FF00000, 0xFFC00, 0x3FF)),
    ],
    ids=["565", "555", "BGRX", "RGBX", "XBGR", "10 bits"],
)
def test_a_bmp_is_read_by_its_masks_wherever_they_are(
    header: int, depth: int, masks: tuple[int, int, int]
) -> None:
    image = decode(masked_bmp(header, depth, masks))
    assert read_quarters(image, tolerance=8 if depth == 16 else 1) == "RGBW"


def test_masks_that_no_decoder_takes_are_no_damage() -> None:
    assert "such colour masks is not read" in complaint(masked_bmp(40, 16, (0xF00, 0xF0, 0xF)))


# What is not


@each_file
def test_a_file_cut_short_anywhere_is_no_picture(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(ImageUnreadable):
            decode(data[:length])


@pytest.mark.parametrize(
    "parameters", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_half_a_jpeg_is_no_picture_though_somebody_put_an_end_to_it(
    parameters: tuple[int, ...], channels: int
) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (96, 96, channels), np.uint8)
    data = encode(".jpg", noise, *parameters)
    assert decode(data).shape == (96, 96, 3)
    for share in (0.3, 0.5, 0.7):
        assert "cut short" in complaint(data[: int(len(data) * share)] + b"\xff\xd9")


@pytest.mark.parametrize("level", [64, 128])
def test_a_grey_jpeg_is_a_picture_all_the_same(level: int) -> None:
    for channels in (1, 3):
        image = decode(encode(".jpg", np.full((40, 40, channels), level, np.uint8)))
        assert (image == level).all()


@pytest.mark.parametrize(("compressed", "read"), [(b"\0", True), (b"\1", False)])
def test_a_png_may_hold_much_text_but_not_much_that_is_compressed(compressed: bytes, read: bool) -> None:
    text = b"Comment\0" + compressed + b"\0\0\0" + zlib.compress(b"text")
    file = png(1, 1, 8, 2, b"rgb", *(17 * [(b"iTXt", text)]))
    if read:
        assert decode(file).tolist() == [[[*b"bgr"]]]
    else:
        with pytest.raises(ImageUnreadable, match="its PNG structure is broken"):
            decode(file)


@pytest.mark.parametrize("animated", [False, True])
def test_a_png_with_too_few_rows_or_a_wrong_bit_is_no_picture(animated: bool) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (32, 32, 3), np.uint8)
    whole = animation(".png", noise) if animated else encode(".png", noise)
    header = whole[: whole.index(b"IDAT") - 4]
    for rows in (zlib.compress(bytes(97) * 16), zlib.compress(bytes(97) * 32)[:-9]):
        complaint(header + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b""))
    end = whole.find(b"fcTL", whole.index(b"IDAT")) if animated else len(whole)
    for position in range(len(header) + 10, end - 16, 97):
        flipped = bytearray(whole)
        flipped[position] ^= 4
        complaint(bytes(flipped))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"no image", "no image that can be read"),
        (b"GIF89a" + bytes(60), "Send a JPEG, PNG, WebP, BMP or AVIF file"),
        (b"II*\0" + bytes(60), "no image that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image that can be read"),
        (box(b"ftyp", b"heic\0\0\0\0mif1heic"), "HEIC is not read"),
        (box(b"ftyp", b"isom\0\0\0\0mp42"), "This kind of file is not read"),
        (animation(".avif"), "An animated AVIF is not read"),
        (b"BM" + struct.pack("<IHHIIiiHHI", 60, 0, 0, 54, 40, 8, 8, 1, 8, 1) + bytes(99), "A compressed BMP"),
        (riff(b"RIFF", b"WEBP" + riff(b"VP8X", bytes(10))), "damaged"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_said_in_a_sentence(data: bytes, words: str) -> None:
    assert words in complaint(data)


def test_a_jpeg_whose_scan_names_a_component_that_the_frame_lacks() -> None:
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, 8, 8, 1) + b"\1\x11\0"
    scan = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 7, 0, 0, 63, 0)
    assert "damaged" in complaint(b"\xff\xd8" + frame + scan + b"\xff\xd9")


# Bombs


DECODE = """
import json, re, sys, time
from agegender.vision.decode import ImageTooLarge, ImageUnreadable, decode

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

data = sys.stdin.buffer.read()
before, begun = peak(), time.process_time()
try:
    decode(data, max_pixels=int(sys.argv[1]))
    what = "read"
except (ImageTooLarge, ImageUnreadable) as error:
    what = type(error).__name__
print(json.dumps([what, time.process_time() - begun, peak() - before]))
"""


def decode_apart(data: bytes, max_pixels: int) -> tuple[str, float, int]:
    """What came of it in a process of its own, processor seconds, and kilobytes of memory."""
    done = subprocess.run(
        [sys.executable, "-c", DECODE, str(max_pixels)],
        input=data,
        capture_output=True,
        check=True,
        timeout=60,
    )
    what, seconds, kilobytes = json.loads(done.stdout)
    return what, seconds, kilobytes


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in the units of Linux")
@pytest.mark.parametrize(
    ("data", "expected"),
    [(data, "ImageTooLarge") for data in too_many_pixels().values()]
    + [(data, "ImageUnreadable") for data in busy_tables().values()],
    ids=[*too_many_pixels(), *busy_tables()],
)
def test_a_bomb_costs_neither_time_nor_memory(data: bytes, expected: str) -> None:
    what, seconds, kilobytes = decode_apart(data, 40_000_000)
    assert what == expected
    assert seconds < 1
    assert kilobytes < 30_000


def of_size(pixels: int) -> dict[str, tuple[int, Callable[[], bytes]]]:
    """For each costly kind of file, the bytes that a pixel of it takes to decode, and one of `pixels` / that * 8."""

    def plain(cost: int, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
        side = int((8 * pixels / cost) ** 0.5)
        return np.full((side, side, channels), 90, dtype)

    progressive_444 = (
        cv2.IMWRITE_JPEG_PROGRESSIVE,
        1,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    )
    fast = (cv2.IMWRITE_AVIF_SPEED, 10)
    ten_bits = (*fast, cv2.IMWRITE_AVIF_DEPTH, 10)
    return {
        "JPEG": (8, lambda: encode(".jpg", plain(8))),
        "grey JPEG": (8, lambda: encode(".jpg", plain(8) // 90 * 128)),
        "progressive JPEG": (9, lambda: encode(".jpg", plain(9), *progressive_444)),
        "PNG": (8, lambda: encode(".png", plain(8))),
        "PNG with alpha": (8, lambda: encode(".png", plain(8, 4))),
        "16-bit PNG with alpha": (16, lambda: encode(".png", plain(16, 4, np.uint16))),
        "animated PNG": (12, lambda: animation(".png", plain(12, 4))),
        "WebP": (8, lambda: encode(".webp", plain(8), cv2.IMWRITE_WEBP_QUALITY, 50)),
        "lossless WebP": (8, lambda: encode(".webp", plain(8))),
        "animated WebP": (12, lambda: animation(".webp", plain(12))),
        "BMP": (8, lambda: encode(".bmp", plain(8))),
        "BMP with masks": (10, lambda: masked_bmp(40, 32, (0xFF, 0xFF00, 0xFF0000), plain(10))),
        "AVIF": (20, lambda: encode(".avif", plain(20), *fast)),
        "10-bit AVIF": (22, lambda: encode(".avif", plain(22, 3, np.uint16), *ten_bits)),
        "AVIF with alpha": (36, lambda: encode(".avif", plain(36, 4), *fast)),
        "10-bit AVIF with alpha": (42, lambda: encode(".avif", plain(42, 4, np.uint16), *ten_bits)),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in the units of Linux")
@pytest.mark.parametrize("kind", of_size(0))
def test_whatever_is_read_takes_no_more_memory_than_the_limit_on_pixels_promises(kind: str) -> None:
    max_pixels = 8_000_000
    cost, make = of_size(max_pixels)[kind]
    data = make()
    what, _, kilobytes = decode_apart(data, max_pixels)
    assert what == "read"
    assert kilobytes * 1024 < 8 * max_pixels + 20e6
    if cost > 8:
        too_many = complaint(data, max_pixels=int(0.99 * max_pixels))
        name = next(name for name in ("JPEG", "PNG", "WebP", "BMP", "AVIF") if name in kind)
        assert f"are allowed for this kind of {name}." in too_many


def test_the_pixel_limit_is_inclusive_and_named_in_the_answer() -> None:
    # An alpha that is opaque everywhere, OpenCV does not write into an AVIF.
    costs = {"CMYK JPEG": 8, "animated WebP": 12, "animated PNG": 10, "AVIF": 20, "AVIF with alpha": 20}
    for name, data in FILES.items():
        least = -(-WIDTH * HEIGHT * costs.get(name, 8) // 8)
        assert decode(data, max_pixels=least).shape == (HEIGHT, WIDTH, 3)
        assert complaint(data, max_pixels=least - 1).startswith("The image has 0.0 million pixels")
    assert "20000" not in complaint(too_many_pixels()["PNG"])
    assert "400.0 million pixels; at most 40.0 million are allowed. Send" in complaint(
        too_many_pixels()["PNG"]
    )
    assert "at most 16.0 million are allowed for this kind of AVIF." in complaint(too_many_pixels()["AVIF"])


def test_every_frame_in_a_stream_counts() -> None:
    stream = FILES["AVIF"][FILES["AVIF"].index(b"mdat") + 4 :]
    assert coded_pixels(stream) == WIDTH * HEIGHT
    assert coded_pixels(3 * stream) == 3 * WIDTH * HEIGHT


def test_an_avif_that_declares_less_than_its_stream_holds_is_still_too_large() -> None:
    data = encode(".avif", np.zeros((300, 400, 3), np.uint8))
    ispe = data.index(b"ispe") + 8
    small = data[:ispe] + struct.pack(">II", 8, 8) + data[ispe + 8 :]
    with pytest.raises(ImageTooLarge):
        decode(small, max_pixels=100_000)


# Anything at all


def decode_or_refuse(data: bytes) -> None:
    """Decode into a picture or raise what the caller is prepared for; anything else fails the test."""
    try:
        image = decode(data, max_pixels=200_000)
    except (ImageUnreadable, ImageTooLarge):
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert 0 < image.shape[0] * image.shape[1] <= 200_000


SIGNATURES = [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBP", b"BM", b"\0\0\0\x18ftypavif"]


@given(st.sampled_from(SIGNATURES), st.binary(max_size=300))
@settings(max_examples=400, deadline=None)
def test_random_bytes_are_refused_by_our_own_exceptions(signature: bytes, data: bytes) -> None:
    decode_or_refuse(signature + data)


@given(damaged_files())
@settings(max_examples=600, deadline=None)
def test_damaged_files_are_read_or_refused_by_our_own_exceptions(data: bytes) -> None:
    decode_or_refuse(data)
