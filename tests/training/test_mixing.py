"""How much of each data set an epoch sees."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

from training.data import FAIRFACE, UTKFACE, Faces
from training.fit import Batches, Config
from training.splits import TRAIN, VALIDATION

AGES = np.arange(60)
"""Each face has an age of its own, by which it is known."""

FACES = Faces(
    crops=np.zeros((60, 8, 8, 3), np.uint8),
    age_low=AGES,
    age_high=AGES,
    male=np.zeros(60, bool),
    race=np.full(60, "unknown"),
    dataset=np.repeat([UTKFACE, FAIRFACE], [20, 40]),
    split=np.repeat([TRAIN, VALIDATION], [50, 10]),
    name=AGES.astype(str),
)


def seen(share: float, epoch: int) -> tuple[set[int], set[int]]:
    """Ages of UTKFace's and of FairFace's faces in an epoch, none of which comes twice."""
    config = Config("A", stages=((8, 2),), batch_size=5, fairface_share=share)
    batches = Batches(FACES, config, epoch)
    ages = [int(age) for i in range(len(batches)) for age in batches[i][1]["age"][:, 0]]
    assert len(ages) == len(set(ages))
    return {age for age in ages if age < 20}, {age for age in ages if age >= 20}


@pytest.mark.parametrize(("share", "drawn"), [(0, 0), (0.5, 15), (1, 30)])
def test_an_epoch_draws_that_share_of_fairfaces_training_faces_beside_all_of_utkfaces(
    share: float, drawn: int
) -> None:
    utkface, fairface = seen(share, 0)
    assert utkface == set(range(20))
    assert len(fairface) == drawn
    assert fairface <= set(range(20, 50))


def test_each_epoch_draws_others() -> None:
    assert seen(0.5, 0)[1] != seen(0.5, 1)[1]
    assert seen(0.5, 0)[1] == seen(0.5, 0)[1]
