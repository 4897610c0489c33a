"""Image files to pixels: JPEG by TurboJPEG, every other kind by Pillow, within a bound on memory."""

from __future__ import annotations

import io
import struct
import warnings
from functools import lru_cache

import cv2
import numpy as np
import pillow_heif
import simplejpeg
from PIL import (  # noqa: F401  WebPImagePlugin as well, so that Pillow does not import all its plugins to find it.
    AvifImagePlugin,
    ExifTags,
    ImageCms,
    ImageFile,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from PIL import Image as PillowImage
from PIL.JpegImagePlugin import JpegImageFile

from agegender.vision import av1
from agegender.vision.image import Image

DEFAULT_MAX_MEMORY = 400_000_000
"""Bytes: enough for a photograph of 48 megapixels, 8064x6048, as JPEG."""

# What Pillow may read beside JPEG; its other plugins (EPS, PSD, ...) are never tried.
_FORMATS = ("PNG", "WEBP", "AVIF", "HEIF", "GIF", "TIFF", "BMP")
# There are as many workers as cores: an image is decoded on one thread.
pillow_heif.register_heif_opener(decode_threads=1)
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Pillow warns of broken metadata, which does not matter here, with a different text for every file.
warnings.filterwarnings("ignore", module=r"PIL\.")

_BYTES_PER_PIXEL = {
    "JPEG": 8,
    "progressive JPEG": 13,
    "PNG": 8,
    "WEBP": 17,
    "AVIF": 15,
    "HEIF": 8,
    "HEIF of other than photographs": 21,
    "GIF": 5,
    "TIFF": 9,
    "BMP": 8,
}
"""Peak memory of decoding, bytes per pixel, rounded up from what `python -m benchmarks.decode_memory` prints."""

_NO_IMAGE = "This file is not a readable image. Send a JPEG, PNG, WebP, HEIC, AVIF, GIF, TIFF or BMP file."
_DAMAGED = (
    "The image is damaged, cut short or of a rare kind that is not read. Send the whole file, or save it again as JPEG "
    "or PNG."
)
_TOO_MANY_PIXELS = (
    "The image has {:.1f} million pixels; at most {:.1f} million are allowed for this kind of file. "
    "Send a smaller one."
)
_TOO_LARGE = "The image has more than 178 million pixels. Send a smaller one."  # Pillow's own bound

# Pillow documents OSError and SyntaxError for broken files, but lets other exceptions of its readers
# through: fuzzing met ValueError, RuntimeError, EOFError and struct.error. The others are typical of bugs in such code.
_BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError, RuntimeError,
    struct.error,
)  # fmt: skip

# The colour space that an ICC profile expects for image modes other than RGB.
_COLOURS = dict.fromkeys(("1", "L", "LA", "I;16", "I;16B", "I;16L"), "L") | {"CMYK": "CMYK"}
# Pixels converted at a time, so that intermediate results are small and stay in the processor's cache.
_BAND_PIXELS = 2**16
_MAX_PROFILE_BYTES = 4 * 2**20
_START_OF_SCAN = b"\xff\xda"
_MAX_SCANS = 50
_PNG_END = b"IEND\xaeB`\x82"


class ImageUnreadable(Exception):
    """Empty, not an image, cut short, corrupt or of a kind that is not read; str(error) is for the sender."""


class ImageTooLarge(Exception):
    """More pixels than allowed, found from the header before any was decoded; str(error) is for the sender."""


def decode(data: bytes | memoryview, max_memory: int = DEFAULT_MAX_MEMORY) -> Image:
    """Decode a JPEG, PNG, WebP, HEIC, AVIF, GIF, TIFF or BMP file, whose content says which it is.

    Returns (height, width, 3) uint8 BGR in sRGB, rotated by the EXIF orientation. Grey and palette images become
    colour, 16 bits are scaled to 8, and transparency is laid over white; of an animation, the first image is taken.
    Takes at most `max_memory` bytes. Raises ImageTooLarge before decoding if more would be needed, and ImageUnreadable
    if the image cannot be decoded completely.
    """
    data = bytes(data)
    if not data:
        raise ImageUnreadable("The image is empty: it has no bytes. Send an image file.")
    try:
        with _open(data) as file:
            _check_size(file, data, max_memory)
            image = _read(file, data)
            orientation = _orientation(file)
    except UnidentifiedImageError:
        raise ImageUnreadable(_NO_IMAGE) from None
    except PillowImage.DecompressionBombError:
        raise ImageTooLarge(_TOO_LARGE) from None
    except _BROKEN:
        raise ImageUnreadable(_DAMAGED) from None
    return _upright(image, orientation)


class _File(io.BytesIO):
    """A file that fails after too many small reads, which would block the interpreter for long."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads_left = 10_000 + len(data) // 1024

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads_left -= 1
        if self._reads_left < 0:
            raise OSError("too many parts")
        return super().read(size)


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read the header only."""
    if data.startswith(b"\xff\xd8"):
        # Image.open would look for further images behind the first one, as cameras store in MPO files.
        return JpegImageFile(_File(data))
    return PillowImage.open(_File(data), formats=_FORMATS)


def _check_size(file: ImageFile.ImageFile, data: bytes, max_memory: int) -> None:
    """Raise ImageTooLarge where decoding may take more than `max_memory` bytes."""
    kind = str(file.format)
    pixels = file.width * file.height
    if isinstance(file, JpegImageFile) and _keeps_coefficients(file, data):
        kind = "progressive JPEG"
    elif isinstance(file, TiffImagePlugin.TiffImageFile):
        # A tile is decoded as a whole, and may be larger than the image.
        pixels = max(pixels, int(file.tag_v2.get(322, 0)) * int(file.tag_v2.get(323, 0)))
    elif kind == "HEIF" and (file.mode, file.info["bit_depth"], file.info.get("chroma")) != ("RGB", 8, 420):
        kind = "HEIF of other than photographs"
    elif isinstance(file, AvifImagePlugin.AvifImageFile):
        pixels = max(pixels, av1.coded_pixels(data))
    allowed = max_memory / _BYTES_PER_PIXEL[kind]
    if pixels > allowed:
        raise ImageTooLarge(_TOO_MANY_PIXELS.format(pixels / 1e6, allowed / 1e6))


def _keeps_coefficients(file: JpegImageFile, data: bytes) -> bool:
    """Return whether a JPEG has several scans, whose coefficients the decoder keeps in memory, 16 bits a sample."""
    assert file.fp is not None  # noqa: S101
    end = file.fp.tell()  # of the first scan's header
    length = 6 + 2 * file.layers
    header_of_all = _START_OF_SCAN + struct.pack(">HB", length, file.layers)
    several = "progressive" in file.info or not data.startswith(header_of_all, end - length - 2)
    # Each scan is a pass over the whole image. Encoders write about ten; thousands of empty ones fit into a small file.
    if several and data.count(_START_OF_SCAN, end) > _MAX_SCANS:
        raise ImageUnreadable(_DAMAGED)
    return several


def _read(file: ImageFile.ImageFile, data: bytes) -> Image:
    transform = _to_srgb(file.info.get("icc_profile"), _COLOURS.get(file.mode, "RGB"))
    if isinstance(file, JpegImageFile) and (file.mode == "RGB" or (file.mode == "L" and transform is None)):
        try:
            image: Image = simplejpeg.decode_jpeg(data, "BGR", strict=True)
        except ValueError as error:
            # Pillow decodes unusual files, as some phones write them, but would also fill in missing parts.
            if "remature end" in str(error):
                raise
        else:
            if transform is not None:
                for band in _bands(image):
                    colours = PillowImage.frombuffer("RGB", band.shape[1::-1], band, "raw", "BGR", 0, 1)
                    _store(transform.apply(colours), band)
            return image
    if file.mode in ("F", "I", "LAB"):
        raise ImageUnreadable(_DAMAGED)
    file.load()
    if file.format == "PNG" and _PNG_END not in data:
        # The file may be complete, but without its end that is not certain.
        raise ImageUnreadable(_DAMAGED)
    image = np.empty((file.height, file.width, 3), np.uint8)
    top = 0
    for band in _bands(image):
        part = file.crop((0, top, file.width, top + len(band)))
        _store(_flat(part, transform), band)
        top += len(band)
    return image


def _bands(image: Image) -> list[Image]:
    rows = max(1, _BAND_PIXELS // image.shape[1])
    return [image[top : top + rows] for top in range(0, len(image), rows)]


def _store(colours: PillowImage.Image, band: Image) -> None:
    cv2.cvtColor(np.asarray(colours), cv2.COLOR_RGB2BGR, dst=band)


def _flat(image: PillowImage.Image, transform: ImageCms.ImageCmsTransform | None) -> PillowImage.Image:
    """Pixels of any mode as sRGB, laid over white where they are transparent, as web pages and viewers do."""
    if image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.uint16)
        levels[levels == image.info.get("transparency", -1)] = 65535
        image = PillowImage.fromarray(cv2.convertScaleAbs(levels, alpha=255 / 65535))
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    colours = image.convert("RGB" if transform is None else transform.input_mode)
    if transform is not None:
        colours = transform.apply(colours)
    if alpha is None:
        return colours
    white = PillowImage.new("RGB", image.size, "white")
    white.paste(colours, mask=alpha)
    return white


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from an ICC profile to sRGB; None if the profile is sRGB already, or is unusable."""
    if not profile or len(profile) > _MAX_PROFILE_BYTES:
        return None
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), mode, "RGB"
        )
    except (ImageCms.PyCMSError, *_BROKEN):
        return None
    if mode != "CMYK":
        # Profiles of sRGB differ in their bytes, so compare what they do.
        side = np.linspace(0, 255, 6).round().astype(np.uint8)
        samples = np.stack(np.meshgrid(side, side, side), axis=-1).reshape(1, -1, 3)
        colours = PillowImage.fromarray(samples).convert(mode)
        change = np.asarray(transform.apply(colours)).astype(int) - np.asarray(colours.convert("RGB"))
        if np.abs(change).max() <= 1:
            return None
    return transform


def _orientation(file: PillowImage.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1, which is upright, if EXIF data is missing or broken."""
    try:
        orientation = file.getexif().get(ExifTags.Base.Orientation)
    except _BROKEN:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _upright(image: Image, orientation: int) -> Image:
    """Undo an EXIF orientation."""
    if 5 <= orientation <= 8:
        image = np.asarray(cv2.transpose(image), np.uint8)
    # The axes that are left to mirror: 0 is top to bottom, 1 left to right, -1 both.
    mirror = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
    if orientation in mirror:
        cv2.flip(image, mirror[orientation], dst=image)
    return image
