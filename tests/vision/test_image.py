from __future__ import annotations

import numpy as np
from agegender.vision.image import halve
from hypothesis import given, settings
from hypothesis import strategies as st


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 7), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_halving_gives_the_means_of_squares(height: int, width: int, times: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    side = 2**times
    rows, columns = height // side, width // side
    means = image[: rows * side, : columns * side].reshape(rows, side, columns, side, 3).mean(axis=(1, 3))
    halved = halve(image, times)
    assert (halved.shape, halved.dtype) == (means.shape, np.uint8)
    assert np.abs(halved - means).max(initial=0) <= (0, 0.5, 0.75, 1.25, 1.5, 2, 2.25, 2.75)[times]
