"""What trained networks say of the training faces, for another to learn from (Hinton, Vinyals and Dean 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.inference.ages import AGES
from training.architectures import load_exported
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


def soft_targets(teachers: Sequence[str], faces: Faces, file: Path) -> SoftTargets:
    """The mean answer of `teachers`, exported `.keras` files, to each training face and its mirror image.

    Only the training split is asked, so no other face has a say. `file` keeps the answers, and gives them where it
    is there. Raises TrainingError.
    """
    if not file.is_file():
        age = np.zeros((len(faces), AGES), np.float32)
        male = np.zeros(len(faces), np.float32)
        rows = faces.indices(TRAIN)
        for teacher in teachers:
            network = load_exported(teacher)
            for start in range(0, len(rows), _BATCH):
                some = rows[start : start + _BATCH]
                for crops in (faces.crops[some], faces.crops[some, :, ::-1]):
                    answer = network.predict_on_batch(crops)
                    age[some] += answer["age"] / (2 * len(teachers))
                    male[some] += answer["gender"] / (2 * len(teachers))
        write_aside(
            file,
            lambda path: np.savez(path, age=age.astype(np.float16), male=male.astype(np.float16)),
        )
    with np.load(file) as kept:
        return SoftTargets(kept["age"], kept["male"])
