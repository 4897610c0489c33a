from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest
from face_images import chip_name, picture
from helpers import decoded

from training.splits import assign_splits, perceptual_hashes, split_of


@pytest.mark.parametrize(
    ("name", "split"),
    [
        # The first 16 hexadecimal digits that `sha256sum` prints of the name, modulo ten: 0 test, 1 validation.
        ("26_1_0_20170116171048641.jpg.chip.jpg", "train"),
        ("1_0_2_20161219154612092.jpg.chip.jpg", "train"),
        ("35_0_3_20170117000000004.jpg.chip.jpg", "test"),
        ("35_0_3_20170117000000008.jpg.chip.jpg", "test"),
        ("35_0_3_20170117000000010.jpg.chip.jpg", "validation"),
        ("fairface/train/1.jpg", "train"),
    ],
)
def test_a_name_has_the_same_split_everywhere_and_for_ever(name: str, split: str) -> None:
    assert split_of(name) == split


def test_splits_are_80_10_10() -> None:
    counts = Counter(split_of(chip_name(30, 0, 0, serial)) for serial in range(5000))
    assert counts["train"] / 5000 == pytest.approx(0.8, abs=0.02)
    assert counts["validation"] / 5000 == pytest.approx(0.1, abs=0.015)
    assert counts["test"] / 5000 == pytest.approx(0.1, abs=0.015)


def hashes(*images: np.ndarray) -> np.ndarray:
    return np.array([perceptual_hashes(image) for image in images])


def copies(image: np.ndarray) -> list[np.ndarray]:
    """The same picture as the web hands it on."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])
    smaller = cv2.resize(cv2.resize(image, (100, 100), interpolation=cv2.INTER_AREA), (128, 128))
    mirrored = np.ascontiguousarray(image[:, ::-1])
    return [
        decoded(data.tobytes()),
        cv2.convertScaleAbs(image, alpha=0.8, beta=25),
        smaller,
        mirrored,
    ]


def test_near_duplicates_never_straddle_a_split() -> None:
    names, images = [], []
    for i in range(40):
        original = picture(i, 128)
        for k, image in enumerate([original, *copies(original)]):
            names.append(chip_name(20 + k, 0, 0, 1000 * k + i))
            images.append(image)
    shuffled = np.random.default_rng(0).permutation(200)
    splits = np.empty(200, "U10")
    splits[shuffled] = assign_splits([names[i] for i in shuffled], hashes(*(images[i] for i in shuffled)))
    grouped = splits.reshape(40, 5)
    assert (grouped == grouped[:, :1]).all()
    assert len(set(grouped[:, 0])) == 3
    # Each group is where its alphabetically first name is.
    assert grouped[:, 0].tolist() == [split_of(chip_name(20, 0, 0, i)) for i in range(40)]


def test_new_pictures_move_no_old_ones() -> None:
    names = [chip_name(50, i % 2, i % 5, i) for i in range(60)]
    images = [picture(i, 64) for i in range(60)]
    before = assign_splits(names[:40], hashes(*images[:40]))
    shuffled = np.random.default_rng(0).permutation(60)
    after = assign_splits([names[i] for i in shuffled], hashes(*(images[i] for i in shuffled)))
    now = dict(zip((names[i] for i in shuffled), after, strict=True))
    assert [now[name] for name in names[:40]] == before.tolist()
