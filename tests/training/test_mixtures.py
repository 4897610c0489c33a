from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

from training.mixtures import draw_parts, mixed, pair_by_age


def test_two_fifths_stay_whole_and_of_the_rest_half_are_blended_and_half_of_patches() -> None:
    own = 1 / (1 + np.exp(-draw_parts(20_000, np.random.default_rng(0))))
    whole = (own > 0.999999).all(axis=(1, 2))
    even = np.ptp(own, axis=(1, 2)) < 1e-6
    blended = own[even & ~whole, 0, 0]
    assert whole.mean() == pytest.approx(0.4, abs=0.02)
    assert len(blended) / len(own) == pytest.approx(0.3, abs=0.02)
    assert 0.2 <= blended.min() < 0.21
    assert 0.79 < blended.max() <= 0.8
    assert own[~even].mean() == pytest.approx(0.5, abs=0.02)


def test_a_mixture_has_its_own_part_and_the_rest_of_the_next_face_of_its_fold() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (6, 128, 128, 3), dtype=np.uint8)
    parts = np.full((6, 4, 4), 20, np.float32)
    parts[3] = np.log(3)  # three quarters
    parts[4, :, :2], parts[4, :, 2:] = 20, -20  # the left half
    seen = np.asarray(mixed(crops, parts, folds=2))
    np.testing.assert_allclose(seen[3], 0.75 * crops[3] + 0.25 * crops[4], atol=1e-3)
    np.testing.assert_allclose(seen[4, :, :40], crops[4, :, :40], atol=1e-3)
    np.testing.assert_allclose(seen[4, :, 88:], crops[5, :, 88:], atol=1e-3)
    np.testing.assert_allclose(seen[[0, 1, 2, 5]], crops[[0, 1, 2, 5]], atol=1e-3)

    parts[5] = -20
    np.testing.assert_allclose(np.asarray(mixed(crops, parts, folds=2))[5], crops[3], atol=1e-3)


def test_neighbours_are_nearer_in_age_than_by_chance_but_not_always_the_same() -> None:
    random = np.random.default_rng(0)
    age = random.uniform(0, 90, (50, 100))
    order = pair_by_age(age, random)
    assert (np.sort(order, axis=1) == np.arange(100)).all()
    apart = np.abs(np.diff(np.take_along_axis(age, order, axis=1)))
    assert 5 < apart.mean() < 20  # 30 by chance
