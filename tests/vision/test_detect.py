from __future__ import annotations

from pathlib import Path

import cv2
import cv2.data
import numpy as np
import pytest
from agegender.inference.yunet import YuNet
from agegender.vision.decode import decode
from agegender.vision.detect import CascadeMissing, Detector, Haar, shrink
from agegender.vision.face import LANDMARK_NAMES, Box, landmark_pixels
from helpers import ASTRONAUT, GRACE_HOPPER, YUNET
from hypothesis import example, given, settings
from hypothesis import strategies as st

PHOTOGRAPHS = {
    "astronaut.jpg": ASTRONAUT,
    "grace_hopper.jpg": GRACE_HOPPER,
}

# Pixels of eyes, nose and mouth corners, marked by hand, in the order of LANDMARK_NAMES.
SEEN = {
    "astronaut.jpg": [(203, 101), (247, 103), (226, 127), (204, 141), (247, 140)],
    "grace_hopper.jpg": [(221, 190), (306, 187), (269, 242), (232, 281), (308, 279)],
}


@pytest.fixture(scope="module")
def yunet() -> YuNet:
    if not YUNET.exists():
        pytest.skip("needs YuNet: run `agegender fetch-detector`")
    return YuNet(YUNET)


@pytest.fixture(scope="module")
def haar() -> Haar:
    return Haar()


@pytest.fixture(params=["yunet", "haar"])
def detector(request: pytest.FixtureRequest) -> Detector:
    found: Detector = request.getfixturevalue(request.param)
    return found


def photograph(name: str) -> np.ndarray:
    return decode(PHOTOGRAPHS[name].read_bytes())


def centre(box: Box) -> np.ndarray:
    return np.array([box.x + box.width / 2, box.y + box.height / 2])


def on_canvas(image: np.ndarray, scale: float, width: int, height: int, x: int, y: int) -> np.ndarray:
    """`image`, resized, with its top left corner at x, y of a grey canvas, and cut off by its edges."""
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=method)
    shift = np.array([[1, 0, x], [0, 1, y]], np.float64)
    return cv2.warpAffine(small, shift, (width, height), borderValue=(128, 128, 128))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_both_find_the_one_face_of_a_photograph(detector: Detector, name: str) -> None:
    (face,) = detector.detect(photograph(name))
    eyes_and_mouth = np.array(SEEN[name])
    box = face.box
    assert np.all(eyes_and_mouth > (box.x, box.y))
    assert np.all(eyes_and_mouth < (box.x + box.width, box.y + box.height))
    assert box.width < 4 * np.ptp(eyes_and_mouth[:2, 0])
    assert face.confidence is not None
    assert 0.6 < face.confidence <= 1


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_yunet_says_where_eyes_nose_and_mouth_are_and_haar_does_not(
    yunet: YuNet, haar: Haar, name: str
) -> None:
    image = photograph(name)
    assert haar.detect(image)[0].landmarks is None
    landmarks = yunet.detect(image)[0].landmarks
    assert landmarks is not None
    assert (landmarks.shape, landmarks.dtype) == ((5, 2), np.float32)
    eyes = np.hypot(*np.subtract(*SEEN[name][:2]))
    assert np.abs(landmarks - SEEN[name]).max() < 0.2 * eyes


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_yunet_finds_faces_of_a_twentieth_of_the_longest_side(yunet: YuNet, name: str) -> None:
    image = photograph(name)
    whole = yunet.detect(image)[0].box
    width, height = 4000, 3000
    scale = 0.05 * width / whole.height
    for x, y in ((0, 0), (1211, 703), (2017, 1409), (3000, 2300)):
        faces = yunet.detect(on_canvas(image, scale, width, height, x, y))
        expected = centre(whole) * scale + (x, y)
        near = [face for face in faces if np.hypot(*(centre(face.box) - expected)) < 50]
        assert len(near) == 1
        assert near[0].box.height == pytest.approx(200, rel=0.25)


def test_an_opencv_without_its_cascades_is_said_to_be_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cv2.data, "haarcascades", str(tmp_path))
    with pytest.raises(CascadeMissing, match=r"^OpenCV came without [^\n]*: install [^\n]* again\.$"):
        Haar()


def test_haar_finds_a_face_of_a_tenth_of_the_longest_side(haar: Haar) -> None:
    canvas = on_canvas(photograph("astronaut.jpg"), 2000 * 0.1 / 93, 2000, 1500, 300, 200)
    assert any(face.box.width == pytest.approx(200, rel=0.25) for face in haar.detect(canvas))


def test_haar_finds_a_face_that_fills_the_image_and_says_how_far_it_reaches_beyond(haar: Haar) -> None:
    image = photograph("astronaut.jpg")
    (whole,) = haar.detect(image)
    x, y, side = whole.box.x + 4, whole.box.y + 4, whole.box.width - 8
    (face,) = haar.detect(image[y : y + side, x : x + side])
    assert face.whole is not None
    assert (face.box.x, face.box.y) == (max(0, face.whole.x), max(0, face.whole.y))
    assert face.box.width <= side
    assert face.whole.width == pytest.approx(whole.box.width, rel=0.1)  # one step of its scales
    assert np.add(centre(face.whole), (x, y)) == pytest.approx(centre(whole.box), abs=3)


def test_results_are_in_pixels_of_the_full_image(yunet: YuNet) -> None:
    """An image of which each pixel became 4x4 is shrunk to itself, so every place is known exactly."""
    image = photograph("astronaut.jpg")
    (face,) = yunet.detect(image)
    enlarged = image.repeat(4, axis=0).repeat(4, axis=1)
    (large,) = YuNet(YUNET, max_side=512).detect(enlarged)
    assert face.landmarks is not None
    assert large.landmarks is not None
    # The centre of pixel p is now between 4p + 1 and 4p + 2.
    assert large.landmarks == pytest.approx(4 * face.landmarks + 1.5, abs=0.01)
    for side in ("x", "y", "width", "height"):
        assert getattr(large.box, side) == pytest.approx(4 * getattr(face.box, side), abs=4)


def test_haar_too_answers_in_pixels_of_the_full_image(haar: Haar) -> None:
    image = photograph("astronaut.jpg")
    (face,) = haar.detect(image)
    # With an eighth of its side on each, an image of 512 has 640 pixels a side: what Haar may look at.
    (large,) = Haar(max_side=640).detect(image.repeat(4, axis=0).repeat(4, axis=1))
    assert large.box == Box(*(4 * side for side in (face.box.x, face.box.y, face.box.width, face.box.height)))


@given(st.integers(100, 7000), st.integers(100, 2500), st.floats(0.15, 0.85), st.floats(0.15, 0.85))
@example(6400, 1204, 0.4, 0.6)  # becomes 640x120: a tenth across, but 0.4 % less than that from top to bottom
@settings(max_examples=20, deadline=None)
def test_places_on_the_copy_are_known_in_the_image(
    width: int, height: int, right: float, down: float
) -> None:
    spread = 2 * max(1, max(width, height) / 640)  # a spot of some pixels on the copy
    x, y = (
        np.exp(-(((np.arange(side) - at * side) / spread) ** 2))
        for side, at in ((width, right), (height, down))
    )
    spot = (255 * y[:, None, None] * x[:, None] * np.ones(3)).round().astype(np.uint8)
    small, scale = shrink(spot, 640)
    assert max(small.shape) == min(640, max(width, height))
    assert (middle(small) + 0.5) / scale - 0.5 == pytest.approx(middle(spot), abs=0.05 / scale.min())


def middle(spot: np.ndarray) -> np.ndarray:
    """(2,) x, y of the centre of what is bright."""
    light = spot[:, :, 0] / spot[:, :, 0].sum(dtype=float)
    return np.array([light.sum(axis) @ np.arange(light.shape[1 - axis]) for axis in (0, 1)])


def test_detection_runs_on_a_copy_no_larger_than_asked_for(detector: Detector) -> None:
    image = photograph("astronaut.jpg")
    assert detector.detect(image)
    blind = Haar(max_side=60) if isinstance(detector, Haar) else YuNet(YUNET, max_side=30)
    assert not blind.detect(image)


def test_the_largest_face_comes_first(detector: Detector) -> None:
    image = photograph("astronaut.jpg")[:260, 100:340]
    row = [on_canvas(image, scale, 260, 300, 5, 5) for scale in (0.6, 1.0, 0.8)]
    faces = detector.detect(np.hstack(row))
    areas = [face.box.area for face in faces]
    assert len(faces) >= 3
    assert areas == sorted(areas, reverse=True)
    assert [int(centre(face.box)[0] // 260) for face in faces[:3]] == [1, 2, 0]


def test_a_higher_threshold_leaves_the_surer_faces(detector: Detector) -> None:
    image = photograph("astronaut.jpg")
    (face,) = detector.detect(image)
    assert face.confidence is not None
    assert [other.box for other in detector.detect(image, face.confidence - 0.001)] == [face.box]
    assert detector.detect(image, min(1.0, face.confidence + 0.001)) == []
    many = detector.detect(image, 0.0)
    assert face.box in [other.box for other in many]
    assert all(other.confidence is not None and 0 <= other.confidence <= 1 for other in many)
    (again,) = detector.detect(image)  # one call's threshold does not stay for the next
    assert again.box == face.box


@given(st.integers(-230, 480), st.integers(-150, 480), st.floats(0.0, 0.6))
@settings(max_examples=15, deadline=None)
def test_boxes_and_shown_landmarks_lie_in_the_image(x: int, y: int, min_confidence: float) -> None:
    if not YUNET.exists():
        pytest.skip("needs YuNet: run `agegender fetch-detector`")
    image = on_canvas(photograph("astronaut.jpg"), 1.0, 500, 300, x - 200, y - 100)
    for face in [*YuNet(YUNET).detect(image, min_confidence), *Haar().detect(image, min_confidence)]:
        box = face.box
        assert all(isinstance(value, int) for value in (box.x, box.y, box.width, box.height))
        assert 0 <= box.x < box.x + box.width <= 500
        assert 0 <= box.y < box.y + box.height <= 300
        if face.landmarks is not None:
            for shown_x, shown_y in landmark_pixels(face.landmarks, 500, 300).values():
                assert 0 <= shown_x < 500
                assert 0 <= shown_y < 300


def test_a_face_that_the_edge_cuts_is_clipped_and_its_landmarks_are_not(yunet: YuNet) -> None:
    cut = np.ascontiguousarray(photograph("grace_hopper.jpg")[:, 246:])  # her right eye and cheek are gone
    (face,) = yunet.detect(cut)
    assert face.landmarks is not None
    assert face.box.x == 0
    assert face.landmarks[3, 0] < -1
    shown = landmark_pixels(face.landmarks, cut.shape[1], cut.shape[0])
    assert tuple(shown) == LANDMARK_NAMES
    assert shown["mouth_right"] == (0, round(float(face.landmarks[3, 1])))
    assert shown["left_eye"] == tuple(face.landmarks[1].round().astype(int))


def test_landmarks_beyond_each_edge_are_shown_on_it() -> None:
    points = np.array([(-3.7, 5.4), (99.6, 5.6), (50.5, -0.6), (1e9, 1e9), (98.4, 48.6)], np.float32)
    assert landmark_pixels(points, 100, 50) == {
        "right_eye": (0, 5),
        "left_eye": (99, 6),
        "nose": (50, 0),
        "mouth_right": (99, 49),
        "mouth_left": (98, 49),
    }


SHAPES = [(1, 1), (1, 640), (640, 1), (2, 20_000), (17, 30), (32, 32), (700, 5)]


def squeezed(shape: tuple[int, int]) -> np.ndarray:
    return cv2.resize(photograph("astronaut.jpg"), shape[::-1], interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("shape", SHAPES)
def test_yunet_gives_the_same_answer_each_time_for_images_of_any_shape(
    yunet: YuNet, shape: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    answers = []
    for _ in range(8):
        yunet.detect(noise, 0.0)  # fills memory with something else
        answers.append([(face.box, face.confidence) for face in yunet.detect(squeezed(shape), 0.1)])
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("shape", SHAPES)
def test_haar_finds_nothing_where_there_is_no_room_for_a_face(haar: Haar, shape: tuple[int, int]) -> None:
    assert haar.detect(squeezed(shape), 0.0) == []
