"""Find faces that are turned in the photograph, at little cost for upright ones.

YuNet finds many faces that are sideways or upside down, but places their landmarks as if they were upright, and is
less confident of them. So a face with less confidence than nearly all upright ones is searched again in other
rotations. `python -m training conditions --turns` measures what this does.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence

import cv2
import numpy as np

from agegender.vision.align import Similarity, roll_of, warp
from agegender.vision.detect import COPY_SIDE, Find, Found, find_at_scales, join
from agegender.vision.face import Detail
from agegender.vision.image import Image

# Nine in ten upright faces, and one in a hundred turned ones, have at least this confidence, more for wider boxes: 0.15
# for each unit by which width / height exceeds 0.8.
_UPRIGHT, _OF_SHAPE, _SHAPE = 0.9, 0.15, 0.8
# Side of a face on the smallest copy, pixels, from which on turned faces are found as if they were upright.
_MIN_SIDE = 48
# Least confidence of a candidate that is searched again, and of a face.
_WEAK, _SURE = 0.3, 0.6
# Faces that are searched again in one photograph, the largest first: bounds the time.
_MOST = 4
_LIKELY = 0.8
# Rotations that are tried, degrees, and by how much the confidence must rise in each.
_TURNS = (0, 45, 90, 135, 180, 225, 270, 315)
_RISES = np.array([0.02, 0.03] * 4)

# A face is searched in squares of 1.5 times its size, four in a single run of the network, and at last in a larger one,
# for better landmarks. It must be near the middle of its square, as a share of the side.
_SQUARE = (96, 1.5)
_LAST_SQUARE = (192, 2.0)
_NEAR = 0.2


def find_at_turns(find: Find, image: Image, threshold: float, detail: Detail) -> Found:
    """Run `find` over scales, and if a face is doubtful or nothing is found, over rotations as well."""
    weakest = min(threshold, _WEAK)
    found = find_at_scales(find, image, weakest, detail)
    unseen = {1, 2, 3}  # quarter turns of the whole photograph

    def search(quarter_turns: set[int]) -> None:
        nonlocal found, unseen
        turns = sorted(quarter_turns & unseen)
        unseen -= quarter_turns
        found = join([found, *(find_at_scales(find, image, weakest, detail, turn) for turn in turns)])

    if not (found.confidences >= _SURE).any():
        search({1, 2, 3})
    for face in _doubtful(found, _MIN_SIDE * max(1.0, max(image.shape[:2]) / COPY_SIDE)):
        turn, likely = _turn(find, image, face)
        if turn is not None and turn % 90 == 0:
            search({turn // 90})  # finds it more exactly, and others with it
        elif turn is not None:
            found = join([found, *_diagonal(find, image, face, turn)])
        elif not likely and _SURE <= face.confidences[0] < _LIKELY:
            # Turned faces are also found in the wrong place, where no turn helps.
            search({1, 2, 3})
    return found.pick(found.confidences >= threshold)


def _doubtful(found: Found, least_side: float) -> list[Found]:
    """Return faces, one each, whose rotation may differ from that of their landmarks, the largest first."""
    sides = found.sizes.max(axis=1)
    eyes, mouth = found.landmarks[:, :2].sum(axis=1), found.landmarks[:, 3:].sum(axis=1)
    across, down = np.abs(mouth - eyes).T
    width, height = np.where(across > down, found.sizes[:, ::-1].T, found.sizes.T)
    doubtful = found.confidences < _UPRIGHT + _OF_SHAPE * (width / height - _SHAPE)
    rows = np.flatnonzero(doubtful & (sides >= least_side))
    rows = rows[np.argsort(-sides[rows], kind="stable")][:_MOST]
    return [found.pick(np.array([row])) for row in rows]


def _turn(find: Find, image: Image, face: Found) -> tuple[int | None, bool]:
    """Return by how many degrees one face is turned, None if not; and whether it is likely to be a face at all."""
    confidences = np.array([_confidence(one) for one in _in_turns(find, image, face, _TURNS, *_SQUARE)])
    itself = 2 * (round(roll_of(face.landmarks[0]) / 90) % 4)
    best = int(np.argmax(confidences - _RISES))
    turned = confidences[best] - _RISES[best] > confidences[itself] and confidences[best] >= _SURE
    return _TURNS[best] if turned else None, bool(confidences.max() >= _SURE)


def _diagonal(find: Find, image: Image, face: Found, turn: int) -> list[Found]:
    """Find the face, turned by about `turn` degrees, in upright squares; empty if it is not found."""
    near = [turn - 22.5, turn, turn + 22.5]
    best = max(_in_turns(find, image, face, near, *_LAST_SQUARE), key=_confidence)
    if best is None:
        return []
    (last,) = _in_turns(find, image, best, [roll_of(best.landmarks[0])], *_LAST_SQUARE)
    return [best if last is None else last]


def _confidence(face: Found | None) -> float:
    return 0.0 if face is None else float(face.confidences[0])


def _in_turns(
    find: Find,
    image: Image,
    face: Found,
    turns: Sequence[float],
    side: int,
    around: float,
) -> list[Found | None]:
    """Find the face in squares that undo each of `turns`, degrees clockwise; None where it is not found."""
    columns = min(len(turns), 4)
    sheet = np.zeros((side * math.ceil(len(turns) / columns), side * columns, 3), np.uint8)
    # Upright and with room for each turn, so that the photograph is read only once.
    room = math.ceil(side * math.sqrt(2))
    scale = side / (around * float(face.sizes.max()))
    centre = complex(*(face.centres[0] - 0.5))
    upright = warp(image, Similarity(complex(scale), complex(room - 1, room - 1) / 2 - scale * centre), room)
    turns_, corners = [], []
    for number, degrees in enumerate(turns):
        turn = cmath.rect(1, -math.radians(degrees))
        shift = complex(side - 1, side - 1) / 2 - turn * complex(room - 1, room - 1) / 2
        top, left = side * (number // columns), side * (number % columns)
        sheet[top : top + side, left : left + side] = cv2.warpAffine(
            upright,
            np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]]),
            (side, side),
        )
        turns_.append(scale * turn)
        corners.append((left, top))
    found = find(sheet, _WEAK)
    faces: list[Found | None] = []
    for turn, corner in zip(turns_, corners, strict=True):
        middle = np.array(corner) + side / 2
        near = np.flatnonzero(np.hypot(*(found.centres - middle).T) < _NEAR * side)
        if not len(near):
            faces.append(None)
            continue
        best = found.pick(near[[np.argmax(found.confidences[near])]])
        back = 1 / turn
        matrix = np.array([[back.real, -back.imag], [back.imag, back.real]])
        faces.append(best.moved(matrix, face.centres[0] - matrix @ middle))
    return faces
