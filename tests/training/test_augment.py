from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

from training.augment import Augment

GREY = 128


def augmented(crops: np.ndarray, size: int = 128, seed: int = 0) -> np.ndarray:
    return np.asarray(Augment(size, seed)(crops))


def dotted(x: int, count: int = 48) -> np.ndarray:
    """Grey crops with a white dot of 17 pixels at (x, 64)."""
    crops = np.full((count, 128, 128, 3), GREY, np.uint8)
    crops[:, 56:73, x - 8 : x + 9] = 255
    return crops


def dots(images: np.ndarray) -> np.ndarray:
    """(n, 2) x, y of the dots in those images that still have one."""
    found = []
    for image in images.mean(axis=-1):
        dot = image > np.median(image) * 1.35
        if 150 < dot.sum() < 500:
            y, x = np.nonzero(dot)
            found.append((x.mean(), y.mean()))
    return np.array(found)


def test_it_keeps_range_and_number_and_gives_the_size_asked_for() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), dtype=np.uint8)
    for size in (128, 96):
        images = augmented(crops, size)
        assert images.shape == (8, size, size, 3)
        assert images.dtype == np.float32
        assert images.min() >= 0
        assert images.max() <= 255


def test_about_half_are_mirrored() -> None:
    x = dots(augmented(dotted(x=30)))[:, 0]
    # 34 from the centre: at most 39 with the scale, and 9 of shift.
    left, right = (x > 10) & (x < 50), (x > 77) & (x < 117)
    assert (left | right).all()
    assert 0.25 < left.mean() < 0.75


def test_a_face_is_shifted_but_stays_where_it_is() -> None:
    centre = dots(augmented(dotted(x=64), seed=1))
    assert np.abs(centre - 64).max() < 12  # 7 % of 128, and the dot's own half pixel times scale
    assert centre.std(axis=0).min() > 2


def test_a_face_is_scaled_and_turned_a_little() -> None:
    left, right = dotted(x=24), dotted(x=104)
    images = augmented(np.maximum(left, right), seed=1).mean(axis=-1)
    between = []
    for image in images:
        y, x = np.nonzero(image > np.median(image) * 1.35)
        halves = [np.array([x[side].mean(), y[side].mean()]) for side in (x < 64, x > 64) if side.any()]
        areas = sorted([(x < 64).sum(), (x > 64).sum()])
        if areas[0] > 0.9 * areas[1]:  # neither was blanked out
            between.append(halves[1] - halves[0])
    distance = np.hypot(*np.array(between).T)
    angle = np.degrees(np.arctan2(*np.array(between).T[::-1]))
    assert 80 * 0.85 - 1 < distance.min() < 72 < 88 < distance.max() < 80 * 1.15 + 1
    assert -11 < angle.min() < -5 < 5 < angle.max() < 11


def test_colours_change_by_the_crop() -> None:
    crops = np.zeros((48, 128, 128, 3), np.uint8)
    crops[:] = (180, 120, 90)
    middles = augmented(crops)[:, 60:68, 60:68].mean(axis=(1, 2))
    assert middles.mean(axis=1).std() > 5  # brightness
    # Colour, less brightness: 0.69 to begin with; contrast alone would leave 0.48 to 0.90.
    colour = (middles.max(axis=1) - middles.min(axis=1)) / middles.mean(axis=1)
    assert 0.2 < np.quantile(colour, 0.1) < 0.48
    assert colour.max() > 0.95


def test_some_lose_a_rectangle_and_most_do_not() -> None:
    white = augmented(np.full((96, 128, 128, 3), 255, np.uint8))[:, 24:104, 24:104]
    # What is erased has a middling grey that no brightness makes of white (255 * 0.75 = 191).
    erased = (np.abs(white - 127.5).max(axis=-1) < 0.01).mean(axis=(1, 2))
    assert 0.1 < (erased > 0).mean() < 0.45
    assert erased.max() < 0.4


def sharpness(images: np.ndarray) -> np.ndarray:
    """(n,) mean difference between neighbouring pixels in the middle of each."""
    return np.abs(np.diff(images[:, 40:88, 40:88].mean(axis=-1), axis=2)).mean(axis=(1, 2))


def test_what_a_teacher_sees_is_neither_blurred_nor_noisy_nor_blanked_out() -> None:
    augment = Augment(seed=3)
    columns = np.zeros((96, 128, 128, 3), np.float32)
    columns[:, :, ::2] = 255
    blurred = sharpness(np.asarray(augment.spoil(columns))) < 0.5 * sharpness(columns)
    assert 0.02 < blurred.mean() < 0.35  # or blanked out in the middle
    noisy = sharpness(np.asarray(augment.spoil(np.full_like(columns, GREY))))
    assert 0.02 < (noisy > 0.1).mean() < 0.35
    plain = np.asarray(augment.alter(np.full(columns.shape, GREY, np.uint8)))
    assert sharpness(plain).max() < 1e-3


def test_the_seed_decides() -> None:
    crops = dotted(x=30, count=4)
    assert np.array_equal(augmented(crops, seed=7), augmented(crops, seed=7))
    assert not np.array_equal(augmented(crops, seed=7), augmented(crops, seed=8))
