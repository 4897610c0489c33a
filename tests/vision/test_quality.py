from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from agegender.vision.align import crop_face, roll_of
from agegender.vision.decode import decode
from agegender.vision.face import Box, Face, FaceWarning, Quality
from agegender.vision.quality import assess
from helpers import ASTRONAUT

# Eyes, nose and mouth corners of the astronaut, marked by hand.
POINTS = np.array([(203, 101), (247, 103), (226, 127), (204, 141), (247, 140)], np.float32)
FACE = Face(Box(178, 63, 91, 113), 0.93, POINTS)

Worse = Callable[[np.ndarray], np.ndarray]


def assessed(image: np.ndarray, face: Face = FACE) -> tuple[Quality, list[FaceWarning]]:
    return assess(face, crop_face(image, face), image, 1.0)


@pytest.fixture
def astronaut() -> np.ndarray:
    return decode(ASTRONAUT.read_bytes())


def test_a_good_picture_has_no_warning(astronaut: np.ndarray) -> None:
    quality, warnings = assessed(astronaut)
    assert warnings == []
    assert quality.size == 91
    assert quality.sharpness > 0.05
    assert quality.brightness == pytest.approx(0.65, abs=0.1)
    assert quality.yaw == pytest.approx(0, abs=10)


@pytest.mark.parametrize(
    ("warning", "worse"),
    [
        ("blurred", lambda image: cv2.GaussianBlur(image, (0, 0), 5)),
        ("blurred", lambda image: cv2.blur(image, (31, 1))),
        ("blurred", lambda image: cv2.blur(image, (1, 31))),
        ("dark", lambda image: image // 12),
        ("bright", lambda image: np.maximum(image, 215)),
        ("cut_off", lambda image: image[:, :230]),
        ("cut_off", lambda image: image[95:, 180:]),
    ],
)
def test_a_poor_picture_has_its_warning_alone(astronaut: np.ndarray, warning: str, worse: Worse) -> None:
    image = np.ascontiguousarray(worse(astronaut))
    shift = np.array([180, 95], np.float32) if image.shape[0] < 512 else np.zeros(2, np.float32)
    assert assessed(image, Face(FACE.box, 0.93, POINTS - shift))[1] == [warning]


def test_a_small_face_is_one_of_fifteen_pixels_or_less(astronaut: np.ndarray) -> None:
    for side, warned in ((15, True), (20, False)):
        scale = side / 91
        image = cv2.resize(astronaut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        face = Face(Box(0, 0, side, round(113 * scale)), 0.9, POINTS * np.float32(scale))
        quality, warnings = assessed(image, face)
        assert quality.size == side
        assert ("small" in warnings) is warned


@pytest.mark.parametrize("side", [-1, 1])
def test_a_head_that_is_turned_to_a_side_has_a_yaw(astronaut: np.ndarray, side: int) -> None:
    points = POINTS.copy()
    points[2, 0] += side * 45  # the nose, by the distance of the eyes
    quality, warnings = assessed(astronaut, Face(FACE.box, 0.9, points))
    assert quality.yaw == pytest.approx(side * 63, abs=10)
    assert "turned" in warnings


@pytest.mark.parametrize("degrees", [-90, -30, 30, 180])
def test_a_tilted_face_says_by_how_much(astronaut: np.ndarray, degrees: int) -> None:
    turn = cv2.getRotationMatrix2D((225, 120), -degrees, 1)
    points = (POINTS @ turn[:, :2].T + turn[:, 2]).astype(np.float32)
    off = (roll_of(points) - roll_of(POINTS) - degrees + 180) % 360 - 180
    assert off == pytest.approx(0, abs=0.1)
    assert "tilted" in assessed(astronaut, Face(FACE.box, 0.9, points))[1]


def test_a_face_without_landmarks_has_neither_yaw_nor_tilt(astronaut: np.ndarray) -> None:
    quality, warnings = assessed(astronaut, Face(Box(170, 50, 110, 110), 0.95))
    assert quality.yaw is None
    assert warnings == []
