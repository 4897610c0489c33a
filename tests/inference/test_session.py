from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from agegender.inference.ages import expectation
from agegender.inference.session import OnnxSession
from tiny_models import tiny_onnx


def grey(*levels: int) -> np.ndarray:
    return np.stack([np.full((128, 128, 3), level, np.uint8) for level in levels])


def session(folder: Path, model: bytes) -> OnnxSession:
    path = folder / "model.onnx"
    path.write_bytes(model)
    return OnnxSession(path)


@pytest.mark.parametrize("n", [1, 4, 5, 11])
def test_each_crop_gets_its_own_age_and_gender_in_order(tmp_path: Path, n: int) -> None:
    levels = np.linspace(26, 230, n).astype(int)
    age, male = session(tmp_path, tiny_onnx()).run(grey(*levels))
    assert age.shape == (n, 101)
    assert age.dtype == male.dtype == np.float32
    assert expectation(age) == pytest.approx(levels * 100 / 255, abs=0.01)
    assert (male > 0.5).tolist() == (levels > 127).tolist()
