"""A face to its crop: the one geometry, used by training and by the service alike.

The canonical frame is that of UTKFace's aligned chips (200x200 pixels). `python -m training template`
measures where YuNet's five points and Haar's box lie in it and prints the constants below.
"""

from __future__ import annotations

import cmath
import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from agegender.vision.face import Box, Face
from agegender.vision.image import Image, halve, halvings

CROP_SIZE = 128
"""Side of a crop, pixels."""

CHIP_SIZE = 200
"""Side of a UTKFace chip, pixels: the unit of the constants below."""

TEMPLATE = np.array([(58.4, 57.7), (136.5, 58.9), (94.7, 100.2), (62.9, 136.1), (128.7, 137.2)], np.float32)
"""Medians of YuNet's landmarks over chips, (5, 2) x, y in chip pixels, in the order of `LANDMARK_NAMES`."""

HAAR_BOX = (-3.0, -20.0, 204.0)
"""Medians of x, y and side of Haar's box over chips, in chip pixels, which it reaches beyond."""

_TEMPLATE = [complex(x, y) for x, y in TEMPLATE.tolist()]

# Side of the largest frame, in image pixels: with its corners up it must stay below OpenCV's 32767.
_MAX_FRAME = 20_000


class Similarity(NamedTuple):
    """Maps a point x + yi: times `turn`, which turns and scales it, plus `shift`. Pixel centres are whole numbers."""

    turn: complex
    shift: complex


def crop_face(image: Image, face: Face) -> NDArray[np.uint8]:
    """The crop of `face` from `image` (height, width, 3) BGR: (128, 128, 3) RGB, black beyond the image."""
    return np.asarray(cv2.cvtColor(warp(image, frame(face), CROP_SIZE), cv2.COLOR_BGR2RGB), np.uint8)


def frame(face: Face) -> Similarity:
    """Where `crop_face` crops: from image pixels to those of the crop."""
    to_chip = None if face.landmarks is None else similarity_to_template(face.landmarks)
    turn, shift = to_chip or _box_to_frame(face.whole or face.box)
    zoom = CROP_SIZE / CHIP_SIZE
    return Similarity(turn * zoom, (shift + (0.5 + 0.5j)) * zoom - (0.5 + 0.5j))


def crop_whole(image: Image) -> NDArray[np.uint8]:
    """An image (height, width, 3) BGR that is one face already cropped, resized: (128, 128, 3) RGB."""
    shrinks = min(image.shape[:2]) > CROP_SIZE
    resized = cv2.resize(
        image, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return np.asarray(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB), np.uint8)


def similarity_to_template(landmarks: NDArray[np.floating]) -> Similarity | None:
    """The least-squares similarity from five points (5, 2) onto the template.

    Closed form in the plane (Umeyama 1991 without reflection). None where the points are those of no face:
    not finite, all but coincident, or as far apart as in a frame beyond what `cv2.warpAffine` can address.
    """
    points = [complex(x, y) for x, y in landmarks.tolist()]
    if not all(map(cmath.isfinite, points)):
        return None
    mean = sum(points) / len(points)
    centred = [point - mean for point in points]
    spread = sum(abs(point) ** 2 for point in centred)
    if spread < 1.0:
        return None
    # The mean of the template goes to that of the points with any scale and angle: what is centred has a sum of zero.
    turn = sum(point.conjugate() * target for point, target in zip(centred, _TEMPLATE, strict=True)) / spread
    if abs(turn) * _MAX_FRAME < CHIP_SIZE:
        return None
    return Similarity(turn, sum(_TEMPLATE) / len(_TEMPLATE) - turn * mean)


def roll_of(landmarks: NDArray[np.floating]) -> float:
    """Degrees, -180 to 180, by which a face with landmarks (5, 2) is turned clockwise from upright; 0 for no face."""
    to_chip = similarity_to_template(landmarks)
    return 0.0 if to_chip is None else -math.degrees(cmath.phase(to_chip.turn))


def _box_to_frame(box: Box) -> Similarity:
    """The upright similarity that puts centre and mean side of `box` where Haar's box lies on chips."""
    x, y, side = HAAR_BOX
    scale = side / math.sqrt(box.area)
    centre = complex(box.x + (box.width - 1) / 2, box.y + (box.height - 1) / 2)
    return Similarity(complex(scale), complex(x + (side - 1) / 2, y + (side - 1) / 2) - scale * centre)


def warp(image: Image, to_crop: Similarity, side: int) -> Image:
    """The square of `side` pixels that `to_crop` maps `image` to, black beyond the image.

    One warp; where it shrinks, each output pixel is a mean of what lies under it.
    """
    turn, shift = to_crop
    times = halvings(1 / abs(turn))
    # Only the part under the square: OpenCV warps no image of 32767 pixels or more a side, such as panoramas.
    edges = (-0.5, side - 0.5)
    under = [(complex(x, y) - shift) / turn for x in edges for y in edges]
    margin = 2**times + 1
    left = max(0, math.floor(min(corner.real for corner in under)) - margin)
    top = max(0, math.floor(min(corner.imag for corner in under)) - margin)
    right = max(0, math.ceil(max(corner.real for corner in under)) + margin)
    bottom = max(0, math.ceil(max(corner.imag for corner in under)) + margin)
    image = halve(image[top:bottom, left:right], times)
    if image.size == 0:
        return np.zeros((side, side, 3), np.uint8)
    # Of the pixels that are left, up to two a side come to one of the crop.
    oversampling = 1 if abs(turn) * 2**times >= 1 else 2
    # Pixel centres are at whole numbers, so a change of resolution also moves the origin by half a pixel.
    centre = 2**times / 2 - 0.5
    shift += turn * complex(left + centre, top + centre)
    shift = (shift + (0.5 + 0.5j)) * oversampling - (0.5 + 0.5j)
    turn *= oversampling * 2**times
    warped = cv2.warpAffine(
        image,
        np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]]),
        (side * oversampling, side * oversampling),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(0, 0, 0),
    )
    crop = np.asarray(warped, np.uint8)
    return halve(crop, 1, after=times) if oversampling > 1 else crop
