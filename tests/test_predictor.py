"""`from agegender import Predictor`: the models in one's own program."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from agegender.answers import Prediction
from agegender.predictor import (
    DetectorFileError,
    DetectorUnavailable,
    ImageTooLarge,
    ImageUnreadable,
    ModelsInvalid,
    Predictor,
    UnknownModel,
)
from agegender.settings import Settings
from helpers import (
    ASTRONAUT,
    GRACE_HOPPER,
    PATIENCE,
    ROOT,
    YUNET,
    Server,
    environment,
    grey,
    pixels,
    without_timings,
)
from pydantic import ValidationError
from tiny_models import put_model


@pytest.fixture
def predictor(models_folder: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache))
    return Predictor(Settings(models=models_folder, yunet_path=YUNET if YUNET.exists() else None))


def said(answer: Prediction) -> dict[str, Any]:
    return without_timings(answer.model_dump(mode="json"))


def test_paths_bytes_and_arrays_get_what_the_service_says(predictor: Predictor, server: Server) -> None:
    served = without_timings(server.predict(ASTRONAUT.read_bytes()).json())
    assert len(served["faces"]) == 1
    bgr = pixels(ASTRONAUT)
    for answer in (
        predictor.predict(ASTRONAUT),
        predictor.predict(str(ASTRONAUT)),
        predictor.predict(ASTRONAUT.read_bytes()),
        predictor.predict(bgr, channels="BGR"),
        predictor.predict(bgr[:, :, ::-1], channels="RGB"),
    ):
        assert said(answer) == served


def test_the_order_of_colours_matters(predictor: Predictor) -> None:
    """Model A looks at red alone."""
    red = grey(0)
    red[:, :, 0] = 204
    ages = [
        predictor.predict(red, channels=order, model="age_gender_A", detector="none").faces[0].age.years
        for order in ("RGB", "BGR")
    ]
    assert ages == [80, pytest.approx(0, abs=2)]


def test_options_are_those_of_the_service_and_checked_as_there(predictor: Predictor) -> None:
    answer = predictor.predict(GRACE_HOPPER, model="age_gender_A", detector="haar", min_confidence=1)
    assert (answer.model, answer.detector, answer.faces) == ("age_gender_A", "haar", [])
    assert predictor.predict(GRACE_HOPPER, detector="none", model=None).model == "age_gender_B"
    with pytest.raises(ValidationError, match="max_faces"):
        predictor.predict(GRACE_HOPPER, max_faces=0)
    with pytest.raises(ValidationError, match="modle"):
        predictor.predict(GRACE_HOPPER, modle="age_gender_A")  # type: ignore[call-arg]


def test_threads_may_share_it(predictor: Predictor) -> None:
    alone = said(predictor.predict(ASTRONAUT, detector="haar"))
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: predictor.predict(ASTRONAUT, detector="haar"), range(12)))
    assert [said(answer) for answer in answers] == [alone] * 12


def test_what_is_wrong_with_a_photograph_is_said(
    predictor: Predictor, models_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ImageUnreadable, match="Send a JPEG"):
        predictor.predict(b"no image")
    with pytest.raises(FileNotFoundError):
        predictor.predict(tmp_path / "nowhere.jpg")
    with pytest.raises(ValueError, match="channels='BGR' as OpenCV"):
        predictor.predict(grey())
    with pytest.raises(ImageTooLarge, match=r"at most 0\.1 million are allowed"):
        Predictor(Settings(models=models_folder, max_pixels=100_000)).predict(ASTRONAUT)


def test_what_is_not_there_is_said_with_what_to_do(
    models_folder: Path, empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache))
    predictor = Predictor(Settings(models=models_folder))
    with pytest.raises(UnknownModel, match="there are: age_gender_A, age_gender_B"):
        predictor.predict(ASTRONAUT, model="age_gender_Z")
    with pytest.raises(DetectorUnavailable, match=r"use auto or haar, .*`agegender fetch-detector`"):
        predictor.predict(ASTRONAUT, detector="yunet")
    with pytest.raises(DetectorFileError, match=r"nowhere\.onnx cannot be read"):
        Predictor(Settings(models=models_folder, yunet_path=Path("nowhere.onnx")))
    with pytest.raises(
        ModelsInvalid, match=f"There is no models folder {tmp_path}/nowhere: name .*AGEGENDER_MODELS"
    ):
        Predictor(Settings(models=tmp_path / "nowhere"))


def models_of(where: Path, cache: Path, site: Path | None = None) -> str:
    """The models folder of a program that runs in `where` and names none, or what it says if there is none."""
    script = (
        "from agegender import Predictor\n"
        "from agegender.settings import Settings\n"
        "try:\n    Predictor(); print(Settings().models)\n"
        "except Exception as error:\n    print(error)"
    )
    path = {} if site is None else {"PYTHONPATH": str(site)}
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=where,
        env=environment(cache, **path),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return ended.stdout.strip()


def test_in_another_directory_the_models_are_those_there_or_beside_the_package(
    tmp_path: Path, empty_cache: Path
) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    shutil.copytree(ROOT / "app", site / "app")
    elsewhere.mkdir()
    none = models_of(elsewhere, empty_cache, site / "app")
    assert none.startswith(f"There is no models folder {elsewhere}/models: name the one")

    (site / "models").mkdir()
    put_model(site / "models", "age_gender_B")
    assert models_of(elsewhere, empty_cache, site / "app") == str(site / "models")

    (elsewhere / "models").mkdir()
    (elsewhere / "models" / "somebody_elses.json").write_text("{}")
    assert models_of(elsewhere, empty_cache, site / "app") == str(site / "models")

    put_model(elsewhere / "models", "age_gender_B")
    (elsewhere / "models" / "somebody_elses.json").unlink()
    assert models_of(elsewhere, empty_cache, site / "app") == "models"


def test_the_package_itself_is_light_to_import() -> None:
    script = "import sys, agegender; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"numpy", "cv2", "onnxruntime", "pydantic", "fastapi"} & set(loaded)
