from __future__ import annotations

import math

import numpy as np
import pytest
from agegender.vision.align import (
    CHIP_SIZE,
    CROP_SIZE,
    HAAR_BOX,
    TEMPLATE,
    crop_face,
    crop_whole,
)
from agegender.vision.face import Box, Face
from hypothesis import given, settings
from hypothesis import strategies as st

MIDDLE = (CHIP_SIZE - 1) / 2
SOMEWHERE = Box(0, 0, 10, 10)  # for faces whose landmarks say where they are


def matrix(scale: float, degrees: float, x: float, y: float) -> np.ndarray:
    """(2, 3): from chip pixels to image pixels; the chip's centre comes to x, y."""
    cos, sin = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([turn, np.array([x, y]) - turn @ (MIDDLE, MIDDLE)])


def move(points: np.ndarray, to_image: np.ndarray) -> np.ndarray:
    return (points @ to_image[:, :2].T + to_image[:, 2]).astype(np.float32)


def map_image(to_image: np.ndarray, height: int, width: int, gain: float = 1) -> np.ndarray:
    """An image whose blue and green say what x and y of the chip each pixel shows, from the chip's centre."""
    y, x = np.mgrid[:height, :width]
    back = np.linalg.inv(to_image[:, :2])
    chip = np.einsum("ij,hwj->hwi", back, np.dstack([x, y]) - to_image[:, 2])
    levels = np.clip(128 + gain * (chip - MIDDLE), 0, 255).round()
    return np.dstack([levels, np.full((height, width), 255)]).astype(np.uint8)


def displacement(crop: np.ndarray, gain: float = 1) -> np.ndarray:
    """How far, in pixels of the crop, what a crop of `map_image` shows is from its place: (n, n, 2).

    With a higher gain it is known more finely, for the middle of the crop alone.
    """
    chip = CHIP_SIZE / CROP_SIZE
    margin = round(CROP_SIZE * (1 - 1 / gain) / 2)
    here = slice(margin, CROP_SIZE - margin)
    y, x = np.mgrid[here, here]
    place = (np.dstack([x, y]) + 0.5) * chip - 0.5
    shown = crop[here, here, 2:0:-1].astype(float)  # a crop is RGB
    return np.asarray(((shown - 128) / gain + MIDDLE - place) / chip)


@given(st.floats(0.4, 4.0), st.floats(-180, 180), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
@settings(max_examples=20, deadline=None)
def test_however_a_face_lies_in_the_image_its_crop_stays_put(
    scale: float, degrees: float, x: float, y: float
) -> None:
    side = math.ceil(300 * scale)
    to_image = matrix(scale, degrees, side / 2 + x, side / 2 + y)
    face = Face(SOMEWHERE, landmarks=move(TEMPLATE, to_image))
    assert np.abs(displacement(crop_face(map_image(to_image, side, side), face))).max() < 1
    fine = displacement(crop_face(map_image(to_image, side, side, gain=8), face), gain=8)
    assert np.abs(fine).max() < 0.25
    assert np.abs(fine.mean(axis=(0, 1))).max() < 0.1


@given(st.floats(0.5, 4.0), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
@settings(max_examples=15, deadline=None)
def test_a_box_alone_puts_the_face_in_the_same_place(scale: float, x: float, y: float) -> None:
    side = math.ceil(300 * scale)
    to_image = matrix(scale, 0, side / 2 + x, side / 2 + y)
    corner = np.array(HAAR_BOX[:2]) - 0.5
    (left, top), (right, bottom) = move(np.array([corner, corner + HAAR_BOX[2]]), to_image) + 0.5
    box = Box(round(left), round(top), round(right - left), round(bottom - top))
    moved = displacement(crop_face(map_image(to_image, side, side), Face(box)))
    # The box is known to whole pixels of the image.
    assert np.abs(moved).max() < 0.7 + 1.5 / scale * CROP_SIZE / CHIP_SIZE


def test_a_large_face_is_averaged_and_not_sampled() -> None:
    """Stripes of one pixel each are grey from afar; single samples would show them as bands."""
    to_image = matrix(4.1, 3, 500, 500)
    stripes = np.zeros((1000, 1000, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = crop_face(stripes, Face(SOMEWHERE, landmarks=move(TEMPLATE, to_image)))
    assert np.abs(crop.astype(int) - 127.5).max() < 50
    assert crop.std() < 15


def test_beyond_the_image_is_black() -> None:
    white = np.full((400, 400, 3), 255, np.uint8)
    crop = crop_face(white, Face(SOMEWHERE, landmarks=move(TEMPLATE, matrix(1, 0, 0, 200))))
    assert (crop[:, :63] == 0).all()
    assert (crop[:, 65:] == 255).all()
    far = crop_face(white, Face(SOMEWHERE, landmarks=move(TEMPLATE, matrix(1, 0, -5000, 200))))
    assert (far == 0).all()


@pytest.mark.parametrize("upright", [False, True])
def test_a_face_at_the_end_of_a_long_panorama(upright: bool) -> None:
    """Of more than 32,767 pixels a side, OpenCV warps no image."""
    to_image = matrix(1, 0, 150, 36_000) if upright else matrix(1, 0, 36_000, 150)
    image = np.zeros((36_200, 300, 3) if upright else (300, 36_200, 3), np.uint8)
    part = (slice(35_800, None), slice(None)) if upright else (slice(None), slice(35_800, None))
    shift = np.array([0, 35_800] if upright else [35_800, 0])
    here = to_image - np.column_stack([np.zeros((2, 2)), shift])
    image[part] = map_image(here, *image[part].shape[:2])
    crop = crop_face(image, Face(SOMEWHERE, landmarks=move(TEMPLATE, to_image)))
    assert np.abs(displacement(crop)).max() < 1


@pytest.mark.parametrize(
    "landmarks",
    [
        np.full((5, 2), 40.0),
        np.full((5, 2), np.nan),
        np.full((5, 2), np.inf),
        TEMPLATE * 1e6,
        TEMPLATE * 400,
        TEMPLATE[[1, 0, 2, 3, 4]] * (1, 1e-12) + (0, 40),
    ],
    ids=["one point", "not numbers", "infinite", "enormous", "larger than OpenCV can warp", "on a line"],
)  # fmt: skip
def test_landmarks_of_no_face_leave_a_crop_all_the_same(landmarks: np.ndarray) -> None:
    image = np.full((300, 36_000, 3), 77, np.uint8)
    crop = crop_face(image, Face(Box(50, 50, 150, 150), landmarks=landmarks.astype(np.float32)))
    assert (crop.shape, crop.dtype) == ((CROP_SIZE, CROP_SIZE, 3), np.uint8)


@pytest.mark.parametrize("side", [40, 128, 200, 1000])
def test_a_whole_image_is_resized_without_moving(side: int) -> None:
    ramp = np.linspace(0, 255, side)
    image = np.repeat(np.repeat(ramp[np.newaxis, :, np.newaxis], side, 0), 3, 2).round().astype(np.uint8)
    crop = crop_whole(image).astype(float)
    assert crop.mean() == pytest.approx(127.5, abs=0.5)
    assert np.abs(crop + crop[:, ::-1] - 255).max() <= 3
    assert (np.diff(crop[64, :, 0]) >= 0).all()
