"""Pixels to faces: the protocol of the detectors, what they share, and the one that OpenCV brings along.

Detection runs on a copy whose longest side is bounded; boxes come back in full-image pixels, clipped to the
image, and landmarks in the same pixels, to be clipped by `landmark_pixels` where they are shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import cv2
import cv2.data
import numpy as np
from numpy.typing import NDArray

from agegender.vision.face import Box, Face
from agegender.vision.image import Image, halve, halvings

DEFAULT_MAX_SIDE = 640

# Shortest side that halving leaves, pixels: what it cuts off at the edges stays a small part of the image.
_SHORTEST_HALF = 64
# What the cascade's last stage sums up for a hit is 54 to 60; a logistic curve makes it a confidence: the share of such
# hits that are faces, by YuNet, on validation images of UTKFace and FairFace (training/EXPERIMENTS.md). Since most
# photographs have more in them that is no face, hits are believed from 0.9 on.
_HAAR_CENTRE = 54.4
_HAAR_SLOPE = 3.4
HAAR_MIN_CONFIDENCE = 0.9
# The cascade finds only what lies in the image whole, forehead and chin with room around them: of chips, which are all
# face, two thirds, and with a border of an eighth of their side 97 %.
_HAAR_BORDER = 1 / 8


class CascadeMissing(Exception):
    """OpenCV has no cascade; str(e) says what to do."""


class Detector(Protocol):
    """Finds the faces in an image."""

    @property
    def name(self) -> str:
        """What answers call it."""
        ...

    def detect(self, image: Image, min_confidence: float | None = None) -> list[Face]:
        """Faces in `image` (height, width, 3) BGR, largest box first; None: the detector's own threshold."""
        ...


class Haar:
    """A cascade of frontal faces that ships inside OpenCV (Viola and Jones, 2001; trained by Lienhart): boxes only.

    It misses half as many as OpenCV's default one. Needs no download. Not to be shared by threads.
    """

    name: Literal["haar"] = "haar"

    def __init__(self, max_side: int = DEFAULT_MAX_SIDE) -> None:
        self._max_side = max_side
        file = Path(cv2.data.haarcascades) / "haarcascade_frontalface_alt2.xml"
        if not file.is_file():
            raise CascadeMissing(
                f"OpenCV came without {file}, which finds faces: install opencv-python-headless again."
            )
        self._cascade = cv2.CascadeClassifier(str(file))

    def detect(self, image: Image, min_confidence: float | None = None) -> list[Face]:
        """See `Detector.detect`."""
        threshold = HAAR_MIN_CONFIDENCE if min_confidence is None else min_confidence
        small, scale = shrink(image, round(self._max_side / (1 + 2 * _HAAR_BORDER)))
        grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY))
        smallest = max(24, round(0.05 * max(grey.shape)))
        border = round(_HAAR_BORDER * max(grey.shape))
        boxes, _, weights = self._cascade.detectMultiScale3(
            cv2.copyMakeBorder(grey, border, border, border, border, cv2.BORDER_REPLICATE),
            scaleFactor=1.1,
            minNeighbors=3,
            minSize=(smallest, smallest),
            outputRejectLevels=True,
        )
        faces: list[Face] = []
        for corner_and_size, weight in zip(boxes, np.ravel(weights), strict=True):
            confidence = float(1 / (1 + np.exp(_HAAR_SLOPE * (_HAAR_CENTRE - weight))))
            whole = (np.reshape(corner_and_size, (2, 2)) - ((border, border), (0, 0))) / scale
            box = clip(whole, image)
            if box is not None and confidence >= threshold:
                faces.append(Face(box, confidence, whole=Box(*np.rint(whole).astype(int).ravel().tolist())))
        return sorted(faces, key=by_area)


def by_area(face: Face) -> int:
    """Sorts the largest face first."""
    return -face.box.area


def shrink(image: Image, max_side: int) -> tuple[Image, NDArray[np.float64]]:
    """A copy whose longest side is at most `max_side`, and its scale against `image`, in x and in y."""
    height, width = image.shape[:2]
    times = min(halvings(max(height, width) / max_side), halvings(min(height, width) / _SHORTEST_HALF))
    image = halve(image, times)
    height, width = image.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    if scale == 1.0:
        return image, np.full(2, 0.5**times)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    # Whole pixels make the two differ a little, or a lot where an image is a narrow strip.
    return small, np.array(size) / (width, height) * 0.5**times


def clip(corner_and_size: NDArray[np.float64], image: Image) -> Box | None:
    """The part of a box ((x, y), (width, height)), float pixels, that lies inside `image`; None if none does."""
    height, width = image.shape[:2]
    (x, y), (x_size, y_size) = corner_and_size.tolist()
    left, top = max(0, round(x)), max(0, round(y))
    right, bottom = min(width, round(x + x_size)), min(height, round(y + y_size))
    if right <= left or bottom <= top:
        return None
    return Box(left, top, right - left, bottom - top)
