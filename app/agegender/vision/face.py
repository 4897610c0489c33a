"""What a face is: a box, landmarks, a confidence, and the quality of its picture. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Landmarks = NDArray[np.float32]

Detail = Literal["fast", "auto", "thorough"]
"""How small the faces are that are searched for in a large photograph."""

FaceWarning = Literal["small", "blurred", "dark", "bright", "turned", "cut_off", "tilted"]
"""What makes an estimate less reliable (vision/quality.py)."""

LANDMARK_NAMES = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")
"""Order of the five points; right and left are the person's own."""


@dataclass(frozen=True, slots=True)
class Box:
    """A bounding box in whole pixels of the upright image, origin top left."""

    x: int
    y: int
    width: int
    height: int

    @property
    def area(self) -> int:
        """Pixels inside the box."""
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class Quality:
    """How good the picture of a face is."""

    score: float
    """0 to 1: how sure the model is of the age beside other faces of that age."""
    size: int
    """Shorter side of the bounding box, pixels."""
    sharpness: float
    """0 to 1: fine detail of the crop as a share of its contrast."""
    brightness: float
    """Mean brightness of the face, from 0 for black to 1 for white."""
    yaw: float | None
    """Degrees by which the head is turned to a side, roughly, positive to the person's left; null without landmarks."""


@dataclass(frozen=True, slots=True)
class Face:
    """A detected face; `landmarks` is (5, 2) float32 x, y in the order of `LANDMARK_NAMES`, if known.

    Landmarks are not clipped: see `landmark_pixels`. Where there are none, `whole` is the box as the detector gave
    it, of which `box` is the part in the image.
    """

    box: Box
    confidence: float | None = None
    landmarks: Landmarks | None = None
    whole: Box | None = None


def landmark_pixels(landmarks: Landmarks, width: int, height: int) -> dict[str, tuple[int, int]]:
    """The points of a `Face` by name as whole pixels x, y inside an image of that size.

    Only what is shown is clipped: a crop wants the points where the detector put them, in the image or not.
    """
    return {
        name: (min(max(round(x), 0), width - 1), min(max(round(y), 0), height - 1))
        for name, (x, y) in zip(LANDMARK_NAMES, landmarks.tolist(), strict=True)
    }
