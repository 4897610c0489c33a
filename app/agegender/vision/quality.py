"""The quality of a face's image, and warnings of what makes the estimate less reliable.

`python -m training conditions` measures by how much each warning raises the error: with the limits below, by a quarter
or more.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from agegender.vision.align import CROP_SIZE, frame, roll_of
from agegender.vision.face import Face, FaceWarning, Landmarks, Quality
from agegender.vision.image import Image

_SMALL = 15
"""Least shorter side of the box, pixels."""
_BLURRED = 0.012
_DARK, _BRIGHT = 0.065, 0.75
_TURNED = 40.0
"""Most degrees to a side."""
_CUT_OFF = 0.15
"""Largest share of the crop that lies beyond the image."""
_TILTED = 10.0
"""Most degrees of roll."""

# The part of a crop that the face fills: rows and columns, pixels.
_FACE = np.s_[20:116, 16:112]
# How far the tip of the nose is in front of the plane of eyes and mouth, as a share of the distance of the eyes.
_NOSE = 0.5
# Points all over a crop.
_GRID = np.add.outer(1j * np.arange(4, CROP_SIZE, 8), np.arange(4, CROP_SIZE, 8))


def assess(
    face: Face, crop: NDArray[np.uint8], image: Image, score: float
) -> tuple[Quality, list[FaceWarning]]:
    """The quality of a face in `image`, given its crop (128, 128, 3) RGB and the score, and the warnings."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    brightness, contrast = (float(value[0, 0]) for value in cv2.meanStdDev(grey[_FACE]))
    # Of the two directions the less sharp one: a shaken camera blurs in one.
    detail = min(
        float(cv2.meanStdDev((grey - cv2.GaussianBlur(grey, kernel, 1.0))[_FACE])[1][0, 0])
        for kernel in ((5, 1), (1, 5))
    )
    quality = Quality(
        score=round(score, 3),
        size=min(face.box.width, face.box.height),
        sharpness=round(detail / max(contrast, 1.0), 3),
        brightness=round(brightness / 255, 3),
        yaw=None if face.landmarks is None else round(_yaw(face.landmarks), 1),
    )
    turn, shift = frame(face)
    points = (_GRID - shift) / turn
    height, width = image.shape[:2]
    inside = (points.real >= 0) & (points.real < width) & (points.imag >= 0) & (points.imag < height)
    raised: dict[FaceWarning, bool] = {
        "small": quality.size <= _SMALL,
        "blurred": quality.sharpness < _BLURRED,
        "dark": quality.brightness < _DARK,
        "bright": quality.brightness > _BRIGHT,
        "turned": quality.yaw is not None and abs(quality.yaw) > _TURNED,
        "cut_off": np.count_nonzero(inside) < (1 - _CUT_OFF) * inside.size,
        "tilted": face.landmarks is not None and abs(roll_of(face.landmarks)) > _TILTED,
    }
    return quality, [warning for warning, is_raised in raised.items() if is_raised]


def _yaw(landmarks: Landmarks) -> float:
    """Degrees by which a head is turned to a side, roughly: from how far the nose is off the middle of the face."""
    points = [complex(x, y) for x, y in landmarks.tolist()]
    eyes = points[1] - points[0]
    if abs(eyes) < 1e-6:
        return 0.0
    middle = (points[0] + points[1] + points[3] + points[4]) / 4
    off = (points[2] - middle) / eyes
    return math.degrees(math.atan2(off.real, _NOSE))
