from __future__ import annotations

import cv2
import numpy as np

from training.augment import alter


def crop() -> np.ndarray:
    """A bright left half with a red spot in its upper part."""
    image = np.full((128, 128, 3), 60, np.uint8)
    image[:, :64] = 180
    image[28:40, 28:40] = (250, 20, 20)
    return image


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
