"""Find faces in an image of any size: the interface of the detectors, and the scales at which they run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from agegender.vision.face import Box, Detail, Face
from agegender.vision.image import Image, halve, halvings

Floats = NDArray[np.float64]

COPY_SIDE = 640
"""Longest side, in pixels, of the smallest copy of the image that is searched, where the largest faces are found."""

# Longest side of the largest copy that is searched, as a share of the image's. YuNet finds faces from 16 to 22 pixels
# on: `auto` finds faces from 100 pixels of the image on, `thorough` sharp ones from 24 on.
# A quarter for `auto` would take three times as long for photographs of 12 megapixels.
_LARGEST_COPY: dict[Detail, float] = {"fast": 0.0, "auto": 1 / 6, "thorough": 0.9}
# Copies larger than the first are searched in tiles, which bounds memory. Adjacent tiles share a strip as wide as the
# largest face that is searched for in them, so that each face lies whole in one tile.
_TILE = 768
_OVERLAP = 96
# Share of the smaller of two boxes that both cover, above which they are one face found twice.
_SAME_FACE = 0.5
# Shortest side that halving leaves, pixels: what it cuts off at the edges stays a small part of the image.
_SHORTEST_HALF = 64


class Detector(Protocol):
    """Finds the faces in an image."""

    def detect(
        self, image: Image, min_confidence: float | None = None, detail: Detail = "auto"
    ) -> list[Face]:
        """Faces in `image` (height, width, 3) BGR, largest box first; None: the detector's own threshold."""
        ...


class Found(NamedTuple):
    """n faces. Positions are pixels from the left and top edge of an image: the first pixel's centre is at 0.5."""

    centres: Floats
    """Of the bounding boxes, (n, 2) x, y."""
    sizes: Floats
    """Of the bounding boxes, (n, 2) width, height."""
    landmarks: Floats
    """(n, 5, 2) x, y in the order of `LANDMARK_NAMES`, or (n, 0, 2) from a detector without landmarks."""
    confidences: Floats
    """(n,), 0 to 1."""

    def pick(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Found:
        """The faces of `rows`, in that order."""
        return Found(*(column[rows] for column in self))

    def moved(self, turn: Floats, shift: Floats | tuple[float, float] = (0.0, 0.0)) -> Found:
        """The same faces where `turn` (2, 2), a rotation or a scale, and then `shift` (2,) puts them.

        A box becomes the box around the turned ellipse that it encloses: exact for right angles.
        """
        return Found(
            self.centres @ turn.T + shift,
            np.sqrt(self.sizes**2 @ (turn**2).T),
            self.landmarks @ turn.T + shift,
            self.confidences,
        )

    def faces(self, image: Image) -> list[Face]:
        """As faces of `image`, largest box first; a face outside the image is left out."""
        height, width = image.shape[:2]
        low = np.rint(self.centres - self.sizes / 2).astype(int)
        high = np.rint(self.centres + self.sizes / 2).astype(int)
        left_top, right_bottom = np.maximum(low, 0), np.minimum(high, (width, height))
        boxes = np.hstack([left_top, right_bottom - left_top]).tolist()
        wholes = np.hstack([low, np.rint(self.sizes).astype(int)]).tolist()
        faces = []
        for inside, whole, points, confidence in zip(
            boxes, wholes, self.landmarks - 0.5, self.confidences.tolist(), strict=True
        ):
            if min(inside[2:]) <= 0:
                continue
            if len(points):
                faces.append(Face(Box(*inside), confidence, points.astype(np.float32)))
            else:
                faces.append(Face(Box(*inside), confidence, whole=Box(*whole)))
        return sorted(faces, key=lambda face: -face.box.area)


Find = Callable[[Image, float], Found]
"""Finds the faces in an image as it is, given the least confidence."""


def join(parts: list[Found]) -> Found:
    """Merge the faces of all `parts`: of boxes that overlap, keep the one with the highest confidence."""
    if len(parts) == 1:
        return parts[0]
    found = Found(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    low, high = found.centres - found.sizes / 2, found.centres + found.sizes / 2
    area = found.sizes.prod(axis=1)
    left = np.argsort(-found.confidences, kind="stable")
    kept = []
    while len(left):
        first, left = left[0], left[1:]
        kept.append(first)
        common = np.minimum(high[first], high[left]) - np.maximum(low[first], low[left])
        shared = np.maximum(common, 0).prod(axis=1) / np.minimum(area[first], area[left])
        left = left[shared <= _SAME_FACE]
    return found.pick(np.array(kept, np.intp))


def find_at_scales(
    find: Find, image: Image, threshold: float, detail: Detail, quarter_turns: int = 0
) -> Found:
    """Run `find` over copies of `image`, from 640 pixels to the size for `detail`, and merge the faces.

    Each copy is first rotated counter-clockwise by `quarter_turns` right angles.
    """
    parts = []
    for number, side in enumerate(_copy_sides(max(image.shape[:2]), detail)):
        copy, scale = shrink(image, side)
        for tile, corner in _tiles(copy):
            found = _find_turned(find, tile, threshold, quarter_turns)
            if number > 0:  # larger ones are found in the previous copy
                found = found.pick(found.sizes.max(axis=1) <= _OVERLAP)
            parts.append(found.moved(np.diag(1 / scale), corner / scale))
    return join(parts)


def _find_turned(find: Find, image: Image, threshold: float, quarter_turns: int) -> Found:
    if quarter_turns == 0:
        return find(image, threshold)
    turned = np.ascontiguousarray(np.rot90(image, quarter_turns))
    back = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), quarter_turns)
    centre, turned_centre = np.array(image.shape[1::-1]) / 2, np.array(turned.shape[1::-1]) / 2
    return find(turned, threshold).moved(back, centre - back @ turned_centre)


def _copy_sides(longest: int, detail: Detail) -> Iterator[float]:
    """Return the longest sides of the copies that are searched, each about twice the previous one."""
    yield COPY_SIDE
    ratio = _LARGEST_COPY[detail] * longest / COPY_SIDE
    if ratio > 1.25:  # otherwise it would hardly find more
        copies = max(1, round(math.log2(ratio)))
        for number in range(1, copies + 1):
            yield COPY_SIDE * ratio ** (number / copies)


def _tiles(image: Image) -> Iterator[tuple[Image, Floats]]:
    """Tiles of `image` of at most 768 pixels a side, and the x, y of their corners; all of it, where it is small."""
    (tops, height), (lefts, width) = _starts(image.shape[0]), _starts(image.shape[1])
    for top in tops:
        for left in lefts:
            yield image[top : top + height, left : left + width], np.array([left, top], np.float64)


def _starts(side: int) -> tuple[list[int], int]:
    """Where tiles along a side start, and their length."""
    count = max(1, math.ceil((side - _OVERLAP) / (_TILE - _OVERLAP)))
    length = math.ceil((side + (count - 1) * _OVERLAP) / count)
    return np.linspace(0, side - length, count).round().astype(int).tolist(), length


def shrink(image: Image, max_side: float) -> tuple[Image, Floats]:
    """A copy whose longest side is at most `max_side`, and its scale against `image`, in x and in y."""
    height, width = image.shape[:2]
    times = min(halvings(max(height, width) / max_side), halvings(min(height, width) / _SHORTEST_HALF))
    image = halve(image, times)
    height, width = image.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    if scale == 1.0:
        return image, np.full(2, 0.5**times)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Means of areas take six times as long; down to half the size the detectors find no more faces in them.
    interpolation = cv2.INTER_LINEAR if scale >= 0.5 else cv2.INTER_AREA
    small = np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8)
    # Whole pixels make the two differ a little, or a lot where an image is a narrow strip.
    return small, np.array(size) / (width, height) * 0.5**times
