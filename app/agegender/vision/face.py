"""What a face is: a box, five landmarks where they are known, and a confidence. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Landmarks = NDArray[np.float32]

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
