from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from agegender.answers import FaceEstimate, Prediction
from agegender.inference.pipeline import DetectorUnavailable, Pipeline
from agegender.inference.variants import UnknownModel, load_catalogue
from agegender.inference.yunet import YuNet
from agegender.vision.decode import ImageTooLarge, ImageUnreadable
from helpers import ASTRONAUT, ROOT, YUNET, needs_yunet
from tiny_models import NORMAL_INTERVAL, put_model, tiny_onnx


def predictor(folder: Path, *, yunet: bool = False, max_image_memory: int = 400_000_000) -> Pipeline:
    put_model(folder)
    return Pipeline(
        load_catalogue(folder), yunet=YuNet(YUNET) if yunet else None, max_image_memory=max_image_memory
    )


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def grey(level: int, width: int = 90, height: int = 60) -> bytes:
    return png(np.full((height, width, 3), level, np.uint8))


@pytest.mark.parametrize(
    ("level", "years", "label", "probability"), [(51, 20, "female", 1.0), (128, 50.2, "male", 0.6225)]
)
def test_without_a_detector_the_whole_image_is_the_face(
    tmp_path: Path, level: int, years: float, label: str, probability: float
) -> None:
    prediction = predictor(tmp_path).predict(grey(level), model="tiny", detector="none")
    assert (prediction.model, prediction.detector) == ("tiny", "none")
    assert (prediction.image.width, prediction.image.height) == (90, 60)
    (face,) = prediction.faces
    assert (face.box.x, face.box.y, face.box.width, face.box.height) == (0, 0, 90, 60)
    assert face.confidence is None
    assert face.landmarks is None
    assert face.age.years == pytest.approx(years, abs=0.05)
    # A bell of 2 years, and of half a year more for the width of a class, leaves a tenth on either side.
    assert face.age.years - face.age.low == pytest.approx(2.6, abs=0.1)
    assert face.age.high - face.age.years == pytest.approx(2.6, abs=0.1)
    assert face.age.coverage == 0.8
    assert face.gender.label == label
    assert face.gender.probability == pytest.approx(probability, abs=1e-3)


def test_the_answer_is_read_as_the_metadata_say(tmp_path: Path) -> None:
    wide = {**NORMAL_INTERVAL, "low": [[2.0]] * 5, "high": [[3.0]] * 5}
    put_model(tmp_path, "plain")
    put_model(tmp_path, "wide", age_interval=wide)
    put_model(tmp_path, "median", age_estimate="median")
    put_model(tmp_path, "soft", gender_temperature=2)
    one = Pipeline(load_catalogue(tmp_path), yunet=None)

    def face(model: str, level: int) -> FaceEstimate:
        return one.predict(grey(level), model=model, detector="none").faces[0]

    plain, wider = face("plain", 128).age, face("wide", 128).age
    assert wider.years == plain.years
    assert wider.years - wider.low == pytest.approx(2 * (plain.years - plain.low), abs=0.2)
    assert wider.high - wider.years == pytest.approx(3 * (plain.high - plain.years), abs=0.3)
    # At level 1 the tiny model's bell of 2 years is cut off at age 0, so that its mean lies above its median.
    assert face("plain", 1).age.years > face("median", 1).age.years + 0.1
    # One level below the middle the logit is -0.5; halved, the probability of female is 1 / (1 + exp(-0.25)).
    assert face("plain", 127).gender.probability == pytest.approx(0.6225, abs=1e-3)
    assert face("soft", 127).gender.probability == pytest.approx(0.5622, abs=1e-3)


def test_the_distribution_is_calibrated_as_the_interval_is(tmp_path: Path) -> None:
    factors = [[0.6], [2.0], [2.5], [3.0], [4.0]]
    put_model(tmp_path, "wide", age_interval={**NORMAL_INTERVAL, "low": factors, "high": factors})
    wide = Pipeline(load_catalogue(tmp_path), yunet=None)
    for coverage in (0.5, 0.8, 0.9, 0.95, 0.99):
        (face,) = wide.predict(
            grey(128), model="wide", detector="none", coverage=coverage, distribution=True
        ).faces
        below = np.interp(
            [face.age.low, face.age.high], np.arange(102) - 0.5, [0, *np.cumsum(face.age.distribution)]
        )
        assert below == pytest.approx(
            [(1 - coverage) / 2, (1 + coverage) / 2], abs=0.02
        )  # within whole years


@pytest.mark.parametrize(
    ("channels", "years"), [((3, 0, 0), 80), ((0, 3, 0), 40), ((0, 0, 3), 20)], ids=["red", "green", "blue"]
)
def test_the_model_is_given_rgb(tmp_path: Path, channels: tuple[float, float, float], years: int) -> None:
    put_model(tmp_path, model=tiny_onnx(channels=channels))
    blue_green_red = np.full((60, 90, 3), (51, 102, 204), np.uint8)
    found = Pipeline(load_catalogue(tmp_path), yunet=None).predict(
        png(blue_green_red), model="tiny", detector="none"
    )
    assert found.faces[0].age.years == pytest.approx(years, abs=0.05)


def test_an_image_without_faces_is_answered_with_none(tmp_path: Path) -> None:
    prediction = predictor(tmp_path).predict(grey(90, 300, 200), model="tiny", detector="haar")
    assert prediction.faces == []
    assert prediction.detector == "haar"
    assert prediction.timings_ms.total > 0


def crowd() -> bytes:
    """The astronaut's head three times on grey: at 0.6, at full size and at 0.8, from left to right."""
    head = cv2.imread(str(ASTRONAUT))[:250, 100:350]
    canvas = np.full((270, 680, 3), 128, np.uint8)
    left = 10
    for scale in (0.6, 1.0, 0.8):
        small = cv2.resize(head, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        canvas[: small.shape[0], left : left + small.shape[1]] = small
        left += small.shape[1] + 20
    return cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def check_crowd(one: Pipeline, detector: str) -> None:
    def predict(max_faces: int) -> Prediction:
        return one.predict(crowd(), model="tiny", detector=detector, max_faces=max_faces)  # type: ignore[arg-type]

    prediction = predict(20)
    areas = [face.box.area for face in prediction.faces]
    assert len(areas) == 3
    assert areas == sorted(areas, reverse=True)
    assert 180 < prediction.faces[0].box.x < 430  # the full-size one is in the middle
    assert prediction.faces_found == 3
    for n in (1, 2):
        assert predict(n).faces_found == 3
        assert [face.box for face in predict(n).faces] == [face.box for face in prediction.faces[:n]]


def test_the_largest_faces_come_first_and_no_more_than_asked_for(tmp_path: Path) -> None:
    check_crowd(predictor(tmp_path), "haar")


@needs_yunet
def test_the_largest_faces_come_first_with_yunet_too(tmp_path: Path) -> None:
    check_crowd(predictor(tmp_path, yunet=True), "yunet")


@needs_yunet
def test_auto_is_yunet_where_its_file_is_and_each_answer_says_which(tmp_path: Path) -> None:
    one, image = predictor(tmp_path, yunet=True), ASTRONAUT.read_bytes()
    found = one.predict(image, model="tiny", detector="auto")
    assert found.detector == "yunet"
    (face,) = found.faces
    assert face.confidence is not None
    assert 0.6 <= face.confidence <= 1
    assert face.landmarks is not None
    box = face.box
    for x, y in face.landmarks.model_dump().values():
        assert box.x <= x <= box.x + box.width
        assert box.y <= y <= box.y + box.height
    assert one.predict(image, model="tiny", detector="haar").detector == "haar"
    assert one.predict(image, model="tiny", detector="auto", min_confidence=1.0).faces == []


def test_auto_is_haar_without_yunet_and_yunet_itself_is_refused(tmp_path: Path) -> None:
    one, image = predictor(tmp_path), ASTRONAUT.read_bytes()
    found = one.predict(image, model="tiny", detector="auto")
    assert found.detector == "haar"
    assert found.faces
    assert found.faces[0].landmarks is None
    assert found.faces[0].confidence is not None
    with pytest.raises(DetectorUnavailable, match="agegender fetch-detector"):
        one.predict(image, model="tiny", detector="yunet")


def test_what_is_wrong_is_said_by_the_exception(tmp_path: Path) -> None:
    one = predictor(tmp_path, max_image_memory=1000)
    with pytest.raises(UnknownModel):
        one.predict(grey(1), model="other")
    with pytest.raises(ImageTooLarge):
        one.predict(grey(1), model="tiny")
    with pytest.raises(ImageUnreadable):
        one.predict(b"no image", model="tiny")


def test_the_stages_add_up_to_the_total(tmp_path: Path) -> None:
    spent = predictor(tmp_path).predict(grey(90, 640, 480), model="tiny", detector="haar").timings_ms
    assert min(spent.decode, spent.detect, spent.predict) >= 0
    assert spent.decode + spent.detect + spent.predict == pytest.approx(spent.total, abs=0.03)


def test_a_predictor_keeps_opencv_to_one_thread(tmp_path: Path) -> None:
    cv2.setNumThreads(4)
    predictor(tmp_path)
    assert cv2.getNumThreads() == 1


def test_warming_runs_without_an_image(tmp_path: Path) -> None:
    one = predictor(tmp_path, yunet=YUNET.exists())
    one.warm()
    assert one.predict(grey(51), model="tiny", detector="none").faces[0].age.years == pytest.approx(
        20, abs=0.05
    )


MODELS = [path.stem for path in sorted((ROOT / "models").glob("*.onnx"))]


@pytest.mark.skipif(not MODELS, reason="models/ holds no model yet")
@pytest.mark.parametrize("model", MODELS or ["none"])
def test_a_model_that_is_shipped_answers_for_a_photograph(model: str) -> None:
    one = Pipeline(load_catalogue(ROOT / "models"), yunet=None)
    (face, *_) = one.predict(ASTRONAUT.read_bytes(), model=model).faces
    assert 0 <= face.age.low <= face.age.high <= 100.5
    assert 0.5 <= face.gender.probability <= 1
