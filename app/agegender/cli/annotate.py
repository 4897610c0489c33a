"""Draw faces into their photograph."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from agegender.answers import FaceEstimate

_COLOUR = (200, 80, 0)  # dark blue, BGR; its contrast with white is 7 to 1
_WHITE = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def annotate(image: NDArray[np.uint8], faces: Sequence[FaceEstimate]) -> NDArray[np.uint8]:
    """Return a copy of `image`, (height, width, 3) BGR, with a box, the age and the gender of each face."""
    drawn = image.copy()
    line = max(2, round(max(image.shape[:2]) / 350))
    for face in faces:
        box, age, gender = face.box, face.age, face.gender
        cv2.rectangle(drawn, (box.x, box.y), (box.x + box.width, box.y + box.height), _COLOUR, line)
        text = f"{gender.label} {gender.probability:.0%}, {age.years:.0f} ({age.low:.0f}-{age.high:.0f})"
        _label(drawn, text, box.x, box.y, line)
    return drawn


def _label(image: NDArray[np.uint8], text: str, x: int, y: int, line: int) -> None:
    """Write `text` above (x, y), moved as far as needed to stay inside the image."""
    scale = line / 3 + 0.15
    (width, height), below = cv2.getTextSize(text, _FONT, scale, line)
    width, height = width + 2 * below, height + 2 * below
    x = max(0, min(x, image.shape[1] - width))
    y = max(height, y)
    cv2.rectangle(image, (x, y - height), (x + width, y), _COLOUR, cv2.FILLED)
    cv2.putText(image, text, (x + below, y - below), _FONT, scale, _WHITE, max(1, line // 2), cv2.LINE_AA)
