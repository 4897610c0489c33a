"""Photographs of any size with any number of faces, made from two real ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from agegender.vision.decode import decode
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]

# Left, top and side of each face with some of its surroundings, in pixels.
_FACES = (
    (ROOT / "examples/astronaut.jpg", 138, 35, 170),
    (ROOT / "tests/photographs/grace_hopper.jpg", 133, 85, 270),
)
# From this row on, the first photograph shows no face: the background.
_BACKGROUND_TOP = 300

# Share of a cell of the grid that a face with its surroundings takes up.
_FILL = 0.9
# They give 0.1 to 0.35 bytes a pixel, as cameras do; flat areas would decode too fast.
_GRAIN = 5.0
_QUALITY = 85

EVERYDAY = ((640, 480, 1), (1366, 768, 4), (4000, 3000, 4))
"""Width, height and faces of common photographs: from a webcam, of a screen, from a phone."""


class Photograph(NamedTuple):
    """A JPEG file, and its size and number of faces for tables."""

    name: str
    jpeg: bytes


def photograph(width: int, height: int, faces: int) -> Photograph:
    """Return a grid of faces, of two people in turn, on a blurred background with grain; the same bytes each time."""
    sources = [(decode(path.read_bytes()), left, top, side) for path, left, top, side in _FACES]
    ground = cv2.resize(sources[0][0][_BACKGROUND_TOP:], (width, height), interpolation=cv2.INTER_CUBIC)
    columns, rows, side = _grid(width, height, faces)
    for index in range(faces):
        image, left, top, size = sources[index % len(sources)]
        interpolation = cv2.INTER_AREA if side < size else cv2.INTER_CUBIC
        face = cv2.resize(
            image[top : top + size, left : left + size], (side, side), interpolation=interpolation
        )
        row, column = divmod(index, columns)
        x = round((column + 0.5) * width / columns - side / 2)
        y = round((row + 0.5) * height / rows - side / 2)
        ground[y : y + side, x : x + side] = face
    grained = _grained(np.asarray(ground, np.uint8))
    encoded = cv2.imencode(".jpg", grained, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
    return Photograph(f"{width}x{height}, {faces} face{'s' if faces > 1 else ''}", encoded.tobytes())


def _grid(width: int, height: int, faces: int) -> tuple[int, int, int]:
    """Return the columns and rows with the largest cells, and the side of a face with its surroundings."""
    grids = [(columns, math.ceil(faces / columns)) for columns in range(1, faces + 1)]
    columns, rows = max(grids, key=lambda grid: min(width / grid[0], height / grid[1]))
    return columns, rows, int(_FILL * min(width / columns, height / rows))


def _grained(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # Repeats one tile of grain: random numbers for all pixels would take seconds.
    tile = np.random.default_rng(0).normal(0, _GRAIN, (512, 512, 3)).round().astype(np.int16)
    height, width = image.shape[:2]
    down, across = math.ceil(height / len(tile)), math.ceil(width / len(tile))
    grain = np.tile(tile, (down, across, 1))[:height, :width]
    return np.asarray(np.clip(image + grain, 0, 255), np.uint8)
