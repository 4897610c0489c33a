from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

from recognizer_file import write_recognizer

from training import teacher
from training.data import Faces
from training.errors import TrainingError

FEATURES = 8 + 2 * 3 * 3


@pytest.fixture
def recognizer(tmp_path: Path) -> Path:
    write_recognizer(tmp_path / "w600k_mbf.onnx")
    return tmp_path / "w600k_mbf.onnx"


def grey_faces(n: int) -> Faces:
    """Faces whose brightness tells their age, 20 or 60 years, and their gender."""
    old = np.arange(n) % 2 == 0
    crops = np.zeros((n, 128, 128, 3), np.uint8)
    crops[old], crops[~old] = 190, 60
    age = np.where(old, 60, 20)
    race, dataset, split = (np.full(n, text) for text in ("White", "utkface", "train"))
    return Faces(crops, age, age.copy(), old, race, dataset, split, np.arange(n).astype(str))


def test_heads_tell_what_they_did_not_see_the_label_of_and_do_so_once(
    recognizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "FOLDS", 2)
    faces = grey_faces(400)
    faces.age_low[7] = faces.age_high[7] = 60  # a label that is wrong
    answers = teacher.ask(recognizer, faces, np.arange(400), 2, 0, tmp_path)
    assert answers.features.shape == (400, 2, FEATURES)
    assert (answers.age.shape, answers.male.shape) == ((400, 2, 101), (400, 2))
    years = answers.age.astype(np.float64) @ np.arange(101)
    assert years[::2].min() > 45
    assert np.delete(years[1::2], 3, axis=0).max() < 35
    assert years[7].max() < 35  # by faces like it, not by its own label
    assert answers.male[::2].mean() > 0.8
    assert answers.male[1::2].mean() < 0.2
    assert abs(float(answers.features.astype(np.float32).mean())) < 0.1
    monkeypatch.setattr(teacher, "_write_features", None)
    monkeypatch.setattr(teacher, "_answers_of_heads", None)
    again = teacher.ask(recognizer, faces, np.arange(400), 2, 0, tmp_path)
    assert np.array_equal(answers.age, again.age)
    assert np.array_equal(answers.features, again.features)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(TrainingError, match=r"junk\.onnx cannot be read: name InsightFace's"):
        teacher.Recognizer(tmp_path / "junk.onnx")
