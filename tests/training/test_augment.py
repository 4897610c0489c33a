from __future__ import annotations

import cv2
import numpy as np
import pytest

from training.augment import alter, augment, resize, spoil


def crop() -> np.ndarray:
    """A bright left half with a red spot in its upper part."""
    image = np.full((128, 128, 3), 60, np.uint8)
    image[:, :64] = 180
    image[28:40, 28:40] = (250, 20, 20)
    return image


@pytest.mark.parametrize("side", [48, 96, 128])
def test_the_result_has_the_side_that_is_asked_for_and_the_crop_stays(side: int) -> None:
    original = crop()
    for seed in range(20):
        image = augment(original, side, np.random.default_rng(seed))
        assert image.shape == (side, side, 3)
        assert image.dtype == np.uint8
    assert np.array_equal(original, crop())


def test_half_of_the_faces_are_mirrored_and_none_is_turned_over() -> None:
    brighter_left = 0
    for seed in range(200):
        image = alter(crop(), 64, np.random.default_rng(seed)).astype(int)
        inside = image[16:48, 8:56].sum(axis=2)
        brighter_left += inside[:, :16].mean() > inside[:, -16:].mean()
        grey = np.ptp(image[16:48, 16:48], axis=2)
        if grey.max() > 60:  # the spot is seen: not all are in colour
            assert np.argmax(grey) // 32 < 20
    assert 80 < brighter_left < 120


def test_faces_stay_nearly_in_place() -> None:
    ring = np.zeros((128, 128, 3), np.uint8)
    cv2.circle(ring, (64, 64), 20, (255, 255, 255), -1)
    for seed in range(100):
        seen = alter(ring, 128, np.random.default_rng(seed))[:, :, 0] > 60
        y, x = (float(np.mean(places)) for places in np.nonzero(seen))
        assert abs(x - 63.5) <= 0.07 * 128 + 1
        assert abs(y - 63.5) <= 0.07 * 128 + 1
        radius = np.sqrt(seen.sum() / np.pi)
        assert 20 * 0.84 <= radius <= 20 * 1.17


def test_colours_change_within_bounds() -> None:
    grey = np.full((128, 128, 3), 100, np.uint8)
    levels = [float(alter(grey, 128, np.random.default_rng(seed))[64, 64].mean()) for seed in range(100)]
    assert min(levels) < 85
    assert max(levels) > 115
    assert all(74 <= level <= 126 for level in levels)


def test_some_images_are_spoiled_and_most_are_not() -> None:
    random = np.random.default_rng(0)
    texture = random.integers(60, 200, (96, 96, 3)).astype(np.uint8)
    spoiled = [spoil(texture.copy(), np.random.default_rng(seed)) for seed in range(300)]
    untouched = sum(np.array_equal(image, texture) for image in spoiled)
    blanked = sum(bool(((image == 127).all(axis=2)).sum() > 100) for image in spoiled)
    assert 0.5 < untouched / 300 < 0.7  # 0.9 * 0.9 * 0.75 of them
    assert 0.18 < blanked / 300 < 0.32


def test_the_same_stream_makes_the_same_image() -> None:
    one, same, other = (augment(crop(), 96, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_resizing_alone_changes_nothing_else() -> None:
    assert np.array_equal(resize(crop(), 128), crop())
    assert np.array_equal(resize(crop(), 64)[2, [2, -3]], [[180] * 3, [60] * 3])
