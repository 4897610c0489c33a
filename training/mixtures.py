"""Faces mixed of two, for a teacher that can tell what they show: labels cannot."""

from __future__ import annotations

import keras
import numpy as np
from agegender.vision.align import CROP_SIZE
from keras import ops
from numpy.typing import NDArray

MIXED_SHARE = 0.6
"""Share of the faces that are mixed: half of them blended (Zhang et al. 2018), half put together of soft patches."""

OWN_PART = (0.2, 0.8)
"""The range of their own part in blended ones."""

_GRID = 4
"""Places along a side between which parts are interpolated."""

_CONTRAST = 6.0
"""How sharp the borders of patches are: the deviation of their logits."""

_WHOLE = 20.0
"""The logit of a face that is not mixed: its own part is 1 in 32-bit floats."""

_AGES_APART = 12.0
"""Years by which the ages that pair faces are blurred."""


def draw_parts(n: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Logits (n, 4, 4) of how much of each place is a face's own, for `mixed`."""
    own = random.uniform(*OWN_PART, size=(n, 1, 1))
    blended = np.broadcast_to(np.log(own / (1 - own)), (n, _GRID, _GRID))
    level = random.uniform(-0.5, 0.5, size=(n, 1, 1))
    patches = _CONTRAST * (random.normal(size=(n, _GRID, _GRID)) - level)
    kind = random.random((n, 1, 1)) / MIXED_SHARE
    return np.where(kind < 0.5, blended, np.where(kind < 1, patches, _WHOLE)).astype(np.float32)


def pair_by_age(age: NDArray[np.floating], random: np.random.Generator) -> NDArray[np.int64]:
    """An order of each row of ages (..., n) in which neighbours, which `mixed` puts together, are often of like age."""
    return np.argsort(age + _AGES_APART * random.normal(size=age.shape), axis=-1)


def mixed(crops: keras.KerasTensor, parts: keras.KerasTensor, folds: int) -> keras.KerasTensor:
    """Crops (n, 128, 128, 3), each with what `parts` leave of the next one; those of each of `folds` stand together."""
    crops = ops.cast(crops, "float32")
    own = ops.image.resize(parts[..., None], (CROP_SIZE, CROP_SIZE), interpolation="bicubic")
    own = ops.sigmoid(own)
    of_folds = ops.reshape(crops, (folds, -1, CROP_SIZE, CROP_SIZE, 3))
    following = ops.reshape(ops.roll(of_folds, -1, axis=1), (-1, CROP_SIZE, CROP_SIZE, 3))
    return own * crops + (1 - own) * following
