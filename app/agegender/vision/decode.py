"""Bytes to pixels: whatever a file holds becomes upright 8-bit BGR, or a sentence that says why not."""

from __future__ import annotations

import hashlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from agegender.vision.errors import ImageTooLarge, ImageUnreadable
from agegender.vision.header import CUT_SHORT, Header, read_header

__all__ = ["ImageTooLarge", "ImageUnreadable", "decode"]

_DAMAGED = "The image is damaged: its {} data cannot be decoded. Send an intact file, or save it anew."

# What libjpeg makes of a missing remainder: all coefficients zero, in YCbCr and grey, then in CMYK.
_JPEG_FILLINGS = (128, 64)
_BYTES_PER_PIXEL = 8
# Rows that are laid over white at a time.
_BAND = 256
# Entropy-coded data that decodes to anything but grey.
_JPEG_NOISE = bytes(np.random.default_rng(0).integers(1, 255, 256, np.uint8))


def decode(data: bytes | memoryview, max_pixels: int = 40_000_000) -> NDArray[np.uint8]:
    """Decode a JPEG, PNG, WebP, BMP or AVIF file, known by its content.

    Returns (height, width, 3) uint8 BGR, turned upright as the file asks. Grey and palette images become
    colour, 16 bits are scaled to 8, and transparency is laid over white; of an animation it is the first image.
    Takes at most 8 bytes of memory for each of `max_pixels`. Raises ImageTooLarge, before decoding, where there
    are more of them, or where a kind of file would take more, and ImageUnreadable for anything else that does not
    come out whole.
    """
    header = read_header(data)
    allowed = min(max_pixels, _BYTES_PER_PIXEL * max_pixels // header.bytes_per_pixel)
    if header.pixels > allowed:
        kind = "" if allowed == max_pixels else f" for this kind of {header.format}"
        raise ImageTooLarge(
            f"The image has {header.pixels / 1e6:.1f} million pixels; at most {allowed / 1e6:.1f} million are "
            f"allowed{kind}. Send a smaller one."
        )
    # What follows the image in the file, no decoder needs to see.
    encoded = np.frombuffer(_edited(memoryview(data).cast("B")[: header.end], header), np.uint8)
    image = _pixels(encoded, header)
    if header.format == "JPEG" and _looks_filled(image):
        noisy = np.concatenate([encoded[:-2], np.frombuffer(_JPEG_NOISE, np.uint8), encoded[-2:]])
        without_noise = _digest(image)
        del image  # there is room for one
        image = _pixels(noisy, header)
        # A whole picture is decoded before the noise comes; one that ended early takes it for picture.
        if _digest(image) != without_noise:
            raise ImageUnreadable(CUT_SHORT.format("JPEG"))
    if header.transparent or image.ndim != 3:
        image = _over_white(image, header)
    return _upright(image, header.orientation)


def _edited(data: memoryview, header: Header) -> memoryview | bytes:
    if not header.edits:
        return data
    pieces: list[memoryview | bytes] = []
    position = 0
    for part, instead in header.edits:
        pieces += [data[position : part.start], instead]
        position = part.stop
    return b"".join([*pieces, data[position:]])


def _pixels(encoded: NDArray[np.uint8], header: Header) -> NDArray[Any]:
    """What OpenCV reads, not turned: BGR, or with transparency as it comes. Raises ImageUnreadable."""
    # OpenCV turns JPEG, PNG and WebP but not AVIF; with this flag, none, and one way serves for all.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    if header.transparent:
        flags = cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(encoded, flags)
    except cv2.error:
        image = None
    if image is None or image.shape[:2] != (header.height, header.width):
        raise ImageUnreadable(_DAMAGED.format(header.format))
    return image


def _looks_filled(image: NDArray[Any]) -> bool:
    """Whether the lowest blocks of a decoded JPEG are of the grey that stands for data that never came."""
    value = int(image[-1, -1, 0])
    return value in _JPEG_FILLINGS and bool((image[-8:] == value).all())


def _digest(image: NDArray[Any]) -> bytes:
    return hashlib.blake2b(image.data).digest()


def _over_white(image: NDArray[Any], header: Header) -> NDArray[np.uint8]:
    """Lay (h, w), (h, w, 3) or (h, w, 4) over white, as web pages and viewers do.

    Colour under full transparency is what an editor left there, often black: dropping alpha would show it.
    """
    over_white = np.empty((*image.shape[:2], 3), np.uint8)
    # Band by band, so that what lies between the two takes little memory.
    for top in range(0, len(image), _BAND):
        band = slice(top, top + _BAND)
        over_white[band] = _band_over_white(image[band], header)
    return over_white


def _band_over_white(image: NDArray[Any], header: Header) -> NDArray[np.uint8]:
    if header.hidden_grey is not None:
        image = np.where(image == header.hidden_grey, np.iinfo(image.dtype).max, image)
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=255 / (2**header.depth - 1))
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if image.shape[2] == 4:
        alpha = cv2.cvtColor(image[:, :, 3], cv2.COLOR_GRAY2BGR)
        darkness = cv2.bitwise_not(cv2.cvtColor(image, cv2.COLOR_BGRA2BGR))
        image = cv2.bitwise_not(cv2.multiply(darkness, alpha, dst=darkness, scale=1 / 255), dst=darkness)
    return image


def _upright(image: NDArray[Any], orientation: int) -> NDArray[np.uint8]:
    """Undo an EXIF orientation, 1 to 8."""
    if orientation in (5, 7):
        image = cv2.transpose(image)
    turn = {
        3: cv2.ROTATE_180,
        6: cv2.ROTATE_90_CLOCKWISE,
        7: cv2.ROTATE_180,
        8: cv2.ROTATE_90_COUNTERCLOCKWISE,
    }
    mirror = {2: 1, 4: 0}
    if orientation in turn:
        image = cv2.rotate(image, turn[orientation])
    elif orientation in mirror:
        image = cv2.flip(image, mirror[orientation])
    return image
