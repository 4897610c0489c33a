"""Photographs and other images, over a socket, to a server with tiny models: what is in the answer."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import (
    ASTRONAUT,
    ASTRONAUT_FACE,
    DETECTORS,
    GRACE_HOPPER,
    GRACE_HOPPER_FACE,
    Server,
    grey,
    inside,
    jpeg,
    needs_yunet,
    pixels,
    png,
    side_by_side,
    turned,
    without_timings,
)

POINTS = {"right_eye", "left_eye", "nose", "mouth_right", "mouth_left"}


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize(
    ("photograph", "size", "area"),
    [(ASTRONAUT, (512, 512), ASTRONAUT_FACE), (GRACE_HOPPER, (512, 600), GRACE_HOPPER_FACE)],
    ids=["astronaut", "grace hopper"],
)
def test_a_photograph_of_one_face(
    server: Server,
    detector: str,
    photograph: Path,
    size: tuple[int, int],
    area: tuple[int, int, int, int],
) -> None:
    answer = server.predict(photograph.read_bytes(), detector=detector)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    prediction = answer.json()
    assert set(prediction) == {"model", "detector", "image", "faces_found", "faces", "timings_ms"}
    assert (prediction["model"], prediction["detector"]) == ("age_gender_B", detector)
    assert prediction["image"] == {"width": size[0], "height": size[1]}
    (face,) = prediction["faces"]
    fields = {"box", "confidence", "landmarks", "roll", "quality", "warnings", "age", "gender"}
    assert set(face) == fields
    assert prediction["faces_found"] == 1
    assert face["quality"]["size"] == min(face["box"]["width"], face["box"]["height"])
    assert face["warnings"] == []
    box = face["box"]
    assert inside(box, area)
    assert min(box["width"], box["height"]) > 80
    assert 0.6 < face["confidence"] <= 1
    assert 0 <= face["age"]["low"] < face["age"]["years"] < face["age"]["high"] <= 100
    assert face["age"]["coverage"] == 0.8
    assert face["gender"]["label"] in ("female", "male")
    assert 0.5 <= face["gender"]["probability"] <= 1
    if detector == "haar":
        assert face["landmarks"] is None
        assert face["roll"] is None
    else:
        points = face["landmarks"]
        assert set(points) == POINTS
        assert abs(face["roll"]) < 5
        # The person's right eye is on the picture's left.
        assert box["x"] < points["right_eye"][0] < points["nose"][0] < points["left_eye"][0]
        assert box["y"] < points["right_eye"][1] < points["nose"][1] < points["mouth_right"][1]
    timings = prediction["timings_ms"]
    assert set(timings) == {"decode", "detect", "predict", "total"}
    assert 0 < timings["detect"] < timings["total"]


@needs_yunet
@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_a_turned_photograph_is_answered_as_the_upright_one(server: Server, quarter_turns: int) -> None:
    upright = cv2.imread(str(ASTRONAUT))
    (expected,) = server.faces(png(upright))
    (face,) = server.faces(png(np.rot90(upright, -quarter_turns)))
    assert face["age"]["years"] == pytest.approx(expected["age"]["years"], abs=1.5)
    assert face["gender"]["label"] == expected["gender"]["label"]
    assert (face["roll"] - expected["roll"]) % 360 == pytest.approx(90 * quarter_turns, abs=5)
    assert (face["warnings"], expected["warnings"]) == (["tilted"], [])


@pytest.mark.parametrize("detector", DETECTORS)
def test_two_faces_in_one_picture_come_largest_first(server: Server, detector: str) -> None:
    image = jpeg(side_by_side())
    first, second = server.faces(image, detector=detector)
    assert inside(first["box"], tuple(np.add(GRACE_HOPPER_FACE, (512, 0, 512, 0))))
    assert inside(second["box"], ASTRONAUT_FACE)
    fewer = server.predict(image, detector=detector, max_faces=1).json()
    assert (fewer["faces"], fewer["faces_found"]) == ([first], 2)


@pytest.mark.parametrize("detector", DETECTORS)
def test_no_face_is_an_answer(server: Server, detector: str) -> None:
    answer = server.predict(png(grey(90, 640, 480)), detector=detector)
    assert answer.status_code == 200
    assert answer.json()["faces"] == []
    assert answer.json()["image"] == {"width": 640, "height": 480}


@pytest.mark.parametrize("detector", DETECTORS)
def test_less_confident_faces_are_left_out_on_request(server: Server, detector: str) -> None:
    photograph = ASTRONAUT.read_bytes()
    assert len(server.faces(photograph, detector=detector, min_confidence=0.5)) == 1
    assert server.faces(photograph, detector=detector, min_confidence=1) == []


@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_a_photograph_turned_by_exif_is_seen_upright(server: Server, orientation: int) -> None:
    shown = pixels(ASTRONAUT)[:400]
    answer = server.predict(turned(shown, orientation), detector="haar").json()
    assert answer["image"] == {"width": 512, "height": 400}
    (face,) = answer["faces"]
    (upright,) = server.faces(png(shown), detector="haar")
    for edge in ("x", "y", "width", "height"):
        assert face["box"][edge] == pytest.approx(upright["box"][edge], abs=8)


@pytest.mark.parametrize("detector", ["none", *DETECTORS])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 300)])
def test_a_tiny_image(server: Server, detector: str, width: int, height: int) -> None:
    answer = server.predict(png(grey(51, width, height)), detector=detector)
    assert answer.status_code == 200
    assert answer.json()["image"] == {"width": width, "height": height}
    assert [face["age"]["years"] for face in answer.json()["faces"]] == ([20] if detector == "none" else [])


@pytest.mark.parametrize(("level", "label"), [(51, "female"), (204, "male")])
def test_without_a_detector_the_image_is_the_face(server: Server, level: int, label: str) -> None:
    (face,) = server.faces(png(grey(level)), detector="none")
    assert face["box"] == {"x": 0, "y": 0, "width": 90, "height": 60}
    assert face["confidence"] is None
    assert face["landmarks"] is None
    assert face["age"]["years"] == level * 100 / 255
    assert face["gender"] == {"label": label, "probability": 1.0}


@pytest.mark.parametrize(
    ("coverage", "deviations"), [(0.5, 0.674), (0.8, 1.282), (0.9, 1.645), (0.95, 1.96), (0.99, 2.576)]
)
def test_the_interval_has_the_coverage_that_is_asked_for(
    server: Server, coverage: float, deviations: float
) -> None:
    # The model's answer for that grey is a normal distribution of 20 years with a deviation of 2.
    widest = {"min_confidence": 0, "max_faces": 100}  # what these may be
    (face,) = server.faces(png(grey(51)), detector="none", coverage=coverage, **widest)
    age = face["age"]
    assert (age["years"], age["coverage"]) == (20, coverage)
    assert (age["low"], age["high"]) == pytest.approx((20 - 2 * deviations, 20 + 2 * deviations), abs=0.1)
    if coverage == 0.8:
        assert server.faces(png(grey(51)), detector="none") == [face]


def test_the_probability_of_each_age_is_given_on_request(server: Server) -> None:
    (face,) = server.faces(png(grey(51)), detector="none", distribution=True)
    probabilities = np.array(face["age"].pop("distribution"))
    ages = np.arange(101)
    bell = np.exp(-((ages - 20) ** 2) / 8)
    assert probabilities == pytest.approx(bell / bell.sum(), abs=0.01)
    assert probabilities.min() >= 0
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)
    for query in ({}, {"distribution": False}):
        assert server.faces(png(grey(51)), detector="none", **query) == [face]


def test_the_model_that_is_asked_for_answers(server: Server) -> None:
    red = png(np.full((60, 90, 3), (0, 0, 153), np.uint8))
    answers = {
        model: server.predict(red, detector="none", model=model).json()
        for model in ("age_gender_A", "age_gender_B")
    }
    assert {model: answer["model"] for model, answer in answers.items()} == {
        model: model for model in answers
    }
    # A looks at red alone.
    assert answers["age_gender_A"]["faces"][0]["age"]["years"] == 60
    assert answers["age_gender_B"]["faces"][0]["age"]["years"] == 20
    default = server.predict(red, detector="none").json()
    assert without_timings(default) == without_timings(answers["age_gender_B"])


@needs_yunet
def test_auto_is_yunet_where_its_file_is(server: Server) -> None:
    photograph = ASTRONAUT.read_bytes()
    chosen = server.predict(photograph, detector="yunet").json()
    assert chosen["detector"] == "yunet"
    for query in ({}, {"detector": "auto"}):
        assert without_timings(server.predict(photograph, **query).json()) == without_timings(chosen)


def test_without_yunet_auto_is_haar(bare_server: Server, keys: tuple[str, str]) -> None:
    answer = bare_server.client.post(
        "/predict", content=ASTRONAUT.read_bytes(), headers={"X-API-Key": keys[0]}
    )
    assert answer.json()["detector"] == "haar"


def test_no_age_lies_beyond_the_oldest_that_there_is(server: Server) -> None:
    (face,) = server.faces(png(grey(255)), detector="none")
    assert 95 < face["age"]["low"] < face["age"]["years"] < face["age"]["high"] == 100
