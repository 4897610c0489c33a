from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from agegender.inference.ages import expectation
from agegender.inference.session import OnnxSession, SessionInvalid
from tiny_models import FLOAT, tiny_onnx


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


def test_a_session_may_be_shared_by_threads(tmp_path: Path) -> None:
    shared = session(tmp_path, tiny_onnx())
    wrong: list[tuple[int, float]] = []

    def run_often(level: int) -> None:
        for _ in range(20):
            years = expectation(shared.run(grey(level))[0])[0]
            if abs(years - level * 100 / 255) > 0.01:
                wrong.append((level, years))

    threads = [threading.Thread(target=run_often, args=(level,)) for level in (51, 102, 153, 204)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (b"", "is not a model that ONNX Runtime can run"),
        (b"not an onnx file", "is not a model that ONNX Runtime can run"),
        (tiny_onnx()[:-200], "is not a model that ONNX Runtime can run"),
        (tiny_onnx(image="pixels_in"), "takes .*pixels_in"),
        (tiny_onnx(image_type=FLOAT), r"takes .*tensor\(float\)"),
        (tiny_onnx(side=96), r"takes .*\[96, 96, 3\]"),
        (tiny_onnx(age="years"), "gives .*years"),
        (tiny_onnx(batch=1), "does not turn two crops"),
        (tiny_onnx(ages=100), r"gives shapes \(2, 100\)"),
        (tiny_onnx(flat_gender=False), r"gives shapes \(2, 101\) and \(2, 1\)"),
        (tiny_onnx(probabilities=False), "gives ages that are no probabilities"),
    ],
    ids=[
        "empty", "junk", "cut short", "input name", "input type", "crop size", "output name", "batch of one",
        "100 ages", "gender column", "logits",
    ],
)  # fmt: skip
def test_a_file_that_breaks_the_contract_is_refused(tmp_path: Path, model: bytes, complaint: str) -> None:
    with pytest.raises(SessionInvalid, match=complaint):
        session(tmp_path, model)


def test_running_a_model_leaves_nothing_in_the_users_folders(tmp_path: Path) -> None:
    home, model = tmp_path / "home", tmp_path / "model.onnx"
    home.mkdir()
    model.write_bytes(tiny_onnx())
    subprocess.run(
        [
            sys.executable,
            "-c",
            f"from agegender.inference.session import OnnxSession; OnnxSession({str(model)!r})",
        ],
        env={"HOME": str(home), "XDG_CACHE_HOME": str(home), "XDG_DATA_HOME": str(home)},
        cwd=tmp_path,
        check=True,
    )
    assert list(home.rglob("*")) == []
