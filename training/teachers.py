"""What trained networks say of the training faces, for another to learn from (Hinton, Vinyals and Dean 2015)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from agegender.inference.ages import AGES
from numpy.typing import NDArray

from training.data import Faces
from training.files import write_aside
from training.splits import TRAIN

_BATCH = 256


@dataclass(frozen=True)
class SoftTargets:
    """The teachers' answers, one row for each face; those of faces that nothing trains on are zeros."""

    age: NDArray[np.float16]
    """(n, 101) probabilities of the ages."""
    male: NDArray[np.float16]
    """(n,) probabilities."""


def soft_targets(teachers: Iterable[keras.Model], faces: Faces, file: Path) -> SoftTargets:
    """The mean answer of `teachers`, models as `with_probabilities` makes them, to training faces and mirror images.

    Only the training split is asked, so no other face has a say. `file` keeps the answers, and gives them where it
    is there; then no teacher is asked.
    """
    if not file.is_file():
        age = np.zeros((len(faces), AGES), np.float32)
        male = np.zeros(len(faces), np.float32)
        rows = faces.indices(TRAIN)
        views = 0
        for teacher in teachers:
            views += 2
            for start in range(0, len(rows), _BATCH):
                some = rows[start : start + _BATCH]
                for crops in (faces.crops[some], faces.crops[some, :, ::-1]):
                    answer = teacher.predict_on_batch(crops)
                    age[some] += answer["age"]
                    male[some] += answer["gender"]
        write_aside(
            file,
            lambda path: np.savez(
                path, age=(age / views).astype(np.float16), male=(male / views).astype(np.float16)
            ),
        )
    with np.load(file) as kept:
        return SoftTargets(kept["age"], kept["male"])
