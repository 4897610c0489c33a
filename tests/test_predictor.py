"""`from agegender import Predictor`: predictions in the process of the caller."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from agegender import Predictor
from agegender.answers import Prediction
from agegender.predictor import (
    DetectorFileError,
    DetectorUnavailable,
    ImageTooLarge,
    ImageUnreadable,
    ModelsInvalid,
    UnknownModel,
)
from agegender.settings import Settings
from helpers import ASTRONAUT, GRACE_HOPPER, ROOT, YUNET, Server, grey, pixels, without_timings
from pydantic import ValidationError
from tiny_models import put_model


@pytest.fixture
def predictor(models_folder: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache))
    return Predictor(Settings(models=models_folder, yunet_path=YUNET if YUNET.exists() else None))


def plain(prediction: Prediction) -> dict[str, Any]:
    return without_timings(prediction.model_dump(mode="json"))


def test_paths_bytes_and_arrays_get_the_answer_of_the_service(predictor: Predictor, server: Server) -> None:
    # A looks at red alone: it sees the order of colours.
    served = without_timings(server.predict(ASTRONAUT.read_bytes(), model="age_gender_A").json())
    assert len(served["faces"]) == 1
    bgr = pixels(ASTRONAUT)
    for photograph, order in (
        (ASTRONAUT, {}),
        (str(ASTRONAUT), {}),
        (ASTRONAUT.read_bytes(), {}),
        (bgr, {"channels": "BGR"}),
        (bgr[:, :, ::-1], {"channels": "RGB"}),
    ):
        assert plain(predictor.predict(photograph, model="age_gender_A", **order)) == served


def test_options_are_those_of_the_service(predictor: Predictor) -> None:
    prediction = predictor.predict(GRACE_HOPPER, model="age_gender_A", detector="haar", min_confidence=1)
    assert (prediction.model, prediction.detector, prediction.faces) == ("age_gender_A", "haar", [])
    assert predictor.predict(GRACE_HOPPER, detector="none", model=None).model == "age_gender_B"
    sure = predictor.predict(GRACE_HOPPER, coverage=0.95, distribution=True).faces[0].age
    plain_age = predictor.predict(GRACE_HOPPER).faces[0].age
    assert sure.low < plain_age.low < sure.years == plain_age.years < plain_age.high < sure.high
    assert (sure.coverage, plain_age.coverage) == (0.95, 0.8)
    assert sure.distribution is not None
    assert sum(sure.distribution) == pytest.approx(1)
    assert plain_age.distribution is None
    for invalid in ({"max_faces": 0}, {"coverage": 1}, {"modle": "age_gender_A"}):
        with pytest.raises(ValidationError, match=next(iter(invalid))):
            predictor.predict(GRACE_HOPPER, **invalid)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("photograph", "options", "expected", "message"),
    [
        (b"no image", {}, ImageUnreadable, "Send a JPEG"),
        (Path("nowhere.jpg"), {}, FileNotFoundError, "nowhere.jpg"),
        (17, {}, TypeError, "int"),
        (grey(), {}, ValueError, "channels='BGR' for pixels from OpenCV, or channels='RGB'"),
        (grey()[:, :, 0], {"channels": "RGB"}, ValueError, r"uint8, not \(60, 90\) uint8"),
        (grey() / 255, {"channels": "RGB"}, ValueError, "float64"),
        (ASTRONAUT, {"model": "age_gender_Z"}, UnknownModel, "there are: age_gender_A, age_gender_B"),
    ],
    ids=["no image", "no file", "a number", "no order", "grey", "floats", "no model"],
)
def test_exceptions_say_what_is_wrong(
    predictor: Predictor, photograph: Any, options: Any, expected: type[Exception], message: str
) -> None:
    with pytest.raises(expected, match=message):
        predictor.predict(photograph, **options)


def test_limits_and_files_are_those_of_the_settings(
    models_folder: Path, empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache))
    with pytest.raises(ImageTooLarge, match=r"million are allowed for this kind of file"):
        Predictor(Settings(models=models_folder, max_image_memory=100_000)).predict(ASTRONAUT)
    a = Predictor(Settings(models=models_folder, default_model="age_gender_A"))
    assert a.predict(ASTRONAUT, detector="none").model == "age_gender_A"
    with pytest.raises(DetectorUnavailable, match=r"use auto or haar, .*`agegender fetch-detector`"):
        Predictor(Settings(models=models_folder)).predict(ASTRONAUT, detector="yunet")
    for file, said in ((Path("nowhere.onnx"), "cannot be read"), (ASTRONAUT, "is not the published YuNet")):
        with pytest.raises(DetectorFileError, match=f"{file} {said}"):
            Predictor(Settings(models=models_folder, yunet_path=file))
    with pytest.raises(ModelsInvalid, match=f"There is no models folder {tmp_path}/nowhere: name .*MODELS"):
        Predictor(Settings(models=tmp_path / "nowhere"))


def test_the_models_are_those_of_the_working_directory_or_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "not_a_model.json").write_text("{}")
    assert Settings().models == ROOT / "models"
    put_model(tmp_path / "models", "age_gender_B")
    assert Settings().models == Path("models")


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import agegender", {"numpy", "cv2", "onnxruntime", "pydantic", "fastapi"}),
        (
            "from agegender import AsyncClient, Client",
            {"cv2", "onnxruntime", "fastapi", "starlette", "uvicorn"},
        ),
    ],
)
def test_an_import_loads_no_more_than_it_needs(statement: str, absent: set[str]) -> None:
    script = f"{statement}; import sys; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not absent & set(ended.stdout.split())
