"""Photographs of any size with any number of faces, made from the two real ones that the project has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from agegender.vision.decode import decode
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]

# Each face with some of its surroundings: left, top, side, pixels.
_FACES = (
    (ROOT / "examples/astronaut.jpg", 138, 35, 170),
    (ROOT / "tests/photographs/grace_hopper.jpg", 133, 85, 270),
)
# A part of the first without a face: what lies behind the faces.
_BACKGROUND_TOP = 300

# Share of its cell that a face with its surroundings takes up.
_FILL = 0.9
# Grain and quality give 0.1 to 0.35 bytes a pixel, as cameras do; flat areas would decode too fast.
_GRAIN = 5.0
_QUALITY = 85

EVERYDAY = ((640, 480, 1), (1366, 768, 4), (4000, 3000, 4))
"""Width, height and faces of what is sent most: a camera of a computer, a screen, a telephone."""


@dataclass(frozen=True)
class Photograph:
    """A JPEG file of `width` x `height` pixels that shows `faces` faces."""

    width: int
    height: int
    faces: int
    jpeg: bytes

    @property
    def name(self) -> str:
        """Size and faces, for tables."""
        return f"{self.width}x{self.height}, {self.faces} face{'s' if self.faces > 1 else ''}"


def photograph(width: int, height: int, faces: int) -> Photograph:
    """The same bytes at each call: a grid of faces, the two people in turn, before a blurred ground with grain."""
    sources = [(decode(path.read_bytes()), left, top, side) for path, left, top, side in _FACES]
    ground = cv2.resize(sources[0][0][_BACKGROUND_TOP:], (width, height), interpolation=cv2.INTER_CUBIC)
    columns, rows, side = _grid(width, height, faces)
    for index in range(faces):
        image, left, top, size = sources[index % len(sources)]
        shrinks = side < size
        face = cv2.resize(
            image[top : top + size, left : left + size],
            (side, side),
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC,
        )
        row, column = divmod(index, columns)
        x = round((column + 0.5) * width / columns - side / 2)
        y = round((row + 0.5) * height / rows - side / 2)
        ground[y : y + side, x : x + side] = face
    quality = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    encoded = cv2.imencode(".jpg", _grained(np.asarray(ground, np.uint8)), quality)[1]
    return Photograph(width, height, faces, encoded.tobytes())


def _grid(width: int, height: int, faces: int) -> tuple[int, int, int]:
    """Columns and rows that leave the most room to each face, and the side of a face with its surroundings."""
    grids = [(columns, math.ceil(faces / columns)) for columns in range(1, faces + 1)]
    columns, rows = max(grids, key=lambda grid: min(width / grid[0], height / grid[1]))
    return columns, rows, int(_FILL * min(width / columns, height / rows))


def _grained(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # One tile of grain for all: random numbers for 40 million pixels would take seconds.
    tile = np.random.default_rng(0).normal(0, _GRAIN, (512, 512, 3)).round().astype(np.int16)
    height, width = image.shape[:2]
    down, across = math.ceil(height / len(tile)), math.ceil(width / len(tile))
    grain = np.tile(tile, (down, across, 1))[:height, :width]
    return np.asarray(np.clip(image + grain, 0, 255), np.uint8)
