"""What small trainings learn from: images that stand in for faces, and recipes that take little time.

No two images are alike to the eye, and each has a name as UTKFace gives them.
"""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray


def picture(seed: int, side: int = 64) -> NDArray[np.uint8]:
    """(side, side, 3) BGR of soft random blotches, whose brightness grows with `seed` modulo 100."""
    blotches = np.random.default_rng(seed).uniform(0, 90, (20, 20, 3)) + 1.5 * (seed % 100)
    picture = cv2.resize(blotches.astype(np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    return picture.astype(np.uint8)


def chip_name(age: int, gender: int, race: int, serial: int) -> str:
    return f"{age}_{gender}_{race}_{serial:017d}.jpg.chip.jpg"


def write_chips(folder: Path, count: int) -> None:
    """`count` chips with ages of 0 to 99, both genders and all races."""
    folder.mkdir(parents=True)
    for i in range(count):
        age, gender, race = i * 37 % 100, i % 2, i // 2 % 5
        cv2.imwrite(str(folder / chip_name(age, gender, race, i)), picture(age + 100 * i))


def write_recipe(path: Path, source: Path, **changes: str) -> Path:
    """Write the recipe in `source` to `path`, but for the `changes`; returns `path`."""
    text = source.read_text()
    for key, value in changes.items():
        text, replaced = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        assert replaced == 1, key
    path.write_text(text)
    return path


SMALL = {
    "datasets": '["utkface"]',
    "network": '"residual"',
    "initial_weights": '"random"',
    "batch_size": "64",
}
"""Changes to a shipped recipe with which it learns from `write_chips` alone, in seconds an epoch."""
