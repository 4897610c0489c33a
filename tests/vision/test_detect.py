from __future__ import annotations

import cv2
import cv2.data
import numpy as np
import pytest
from agegender.inference.yunet import YuNet
from agegender.vision.align import roll_of
from agegender.vision.decode import decode
from agegender.vision.face import Box, Detail, landmark_pixels
from agegender.vision.haar import Haar
from helpers import ASTRONAUT, GRACE_HOPPER, YUNET
from hypothesis import given, settings
from hypothesis import strategies as st

PHOTOGRAPHS = {path.name: path for path in (ASTRONAUT, GRACE_HOPPER)}

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
    image = cv2.resize(photograph("astronaut.jpg"), (640, 640), interpolation=cv2.INTER_CUBIC)
    (face,) = yunet.detect(image)
    enlarged = image.repeat(4, axis=0).repeat(4, axis=1)
    (large,) = yunet.detect(enlarged, detail="fast")
    assert face.landmarks is not None
    assert large.landmarks is not None
    # The centre of pixel p is now between 4p + 1 and 4p + 2.
    assert large.landmarks == pytest.approx(4 * face.landmarks + 1.5, abs=0.01)
    for side in ("x", "y", "width", "height"):
        assert getattr(large.box, side) == pytest.approx(4 * getattr(face.box, side), abs=4)


def crowd(width: int, height: int, columns: int, rows: int, face_height: int) -> np.ndarray:
    """The two people in turn, with faces of `face_height` pixels, in a grid before a blurred background, as a JPEG."""
    ground = cv2.resize(photograph("astronaut.jpg")[300:], (width, height), interpolation=cv2.INTER_CUBIC)
    people = (
        (photograph("astronaut.jpg")[35:205, 138:308], 113),
        (photograph("grace_hopper.jpg")[85:355, 133:403], 212),
    )
    for number in range(columns * rows):
        head, height_before = people[number % 2]
        side = round(len(head) * face_height / height_before)
        row, column = divmod(number, columns)
        x = round((column + 0.5) * width / columns - side / 2)
        y = round((row + 0.5) * height / rows - side / 2)
        method = cv2.INTER_AREA if side < len(head) else cv2.INTER_CUBIC
        ground[y : y + side, x : x + side] = cv2.resize(head, (side, side), interpolation=method)
    return decode(cv2.imencode(".jpg", ground, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())


@pytest.mark.parametrize("face_height", [34, 60, 90, 120])
def test_eighteen_small_faces_in_twelve_megapixels_are_found(yunet: YuNet, face_height: int) -> None:
    faces = yunet.detect(crowd(4000, 3000, 6, 3, face_height), detail="thorough")
    assert len(faces) == 18
    assert {
        (int(centre(face.box)[0] * 6 // 4000), int(centre(face.box)[1] * 3 // 3000)) for face in faces
    } == {(column, row) for column in range(6) for row in range(3)}
    assert all(face.box.height == pytest.approx(face_height, rel=0.25) for face in faces)


def test_eight_faces_in_a_panorama_are_found(yunet: YuNet) -> None:
    faces = yunet.detect(crowd(8000, 512, 8, 1, 150))
    assert sorted(int(centre(face.box)[0] // 1000) for face in faces) == list(range(8))


@pytest.mark.parametrize("detail", ["fast", "auto", "thorough"])
@pytest.mark.parametrize("side", [92, 3000])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_close_up_of_any_size_has_one_face(yunet: YuNet, name: str, side: int, detail: Detail) -> None:
    head = {"astronaut.jpg": np.s_[35:205, 138:308], "grace_hopper.jpg": np.s_[85:355, 133:403]}[name]
    close_up = cv2.resize(photograph(name)[head], (side, side), interpolation=cv2.INTER_CUBIC)
    (face,) = yunet.detect(close_up, detail=detail)
    assert 0.4 < face.box.height / side < 0.9


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 45, -45, 135])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_face_is_found_however_it_is_turned(yunet: YuNet, name: str, degrees: int) -> None:
    image = photograph(name)
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1)
    side = 2 * round(0.75 * max(height, width))
    turn[:, 2] += side / 2 - np.array([width, height]) / 2
    (face,) = yunet.detect(cv2.warpAffine(image, turn, (side, side), borderValue=(128, 128, 128)))
    assert face.landmarks is not None
    expected = np.array(SEEN[name]) @ turn[:, :2].T + turn[:, 2]
    eyes = np.hypot(*np.subtract(*SEEN[name][:2]))
    assert np.abs(face.landmarks - expected).max() < 0.25 * eyes
    assert np.abs(centre(face.box) - expected.mean(axis=0)).max() < eyes
    assert (roll_of(face.landmarks) - degrees + 180) % 360 - 180 == pytest.approx(0, abs=8)


def test_all_faces_of_a_photograph_that_lies_are_found(yunet: YuNet) -> None:
    lying = np.rot90(np.hstack([photograph(name)[:512] for name in PHOTOGRAPHS]), -1)
    faces = yunet.detect(np.ascontiguousarray(lying))
    assert sorted(int(centre(face.box)[1] // 512) for face in faces) == [0, 1]
    assert [roll_of(face.landmarks) for face in faces if face.landmarks is not None] == pytest.approx(
        [90, 92], abs=5
    )


@given(st.integers(-230, 480), st.integers(-150, 480), st.floats(0.0, 0.6))
@settings(max_examples=15, deadline=None)
def test_boxes_and_shown_landmarks_lie_in_the_image(
    yunet: YuNet, haar: Haar, x: int, y: int, min_confidence: float
) -> None:
    image = on_canvas(photograph("astronaut.jpg"), 1.0, 500, 300, x - 200, y - 100)
    for face in [*yunet.detect(image, min_confidence), *haar.detect(image, min_confidence)]:
        box = face.box
        assert all(isinstance(value, int) for value in (box.x, box.y, box.width, box.height))
        assert 0 <= box.x < box.x + box.width <= 500
        assert 0 <= box.y < box.y + box.height <= 300
        if face.landmarks is not None:
            for shown_x, shown_y in landmark_pixels(face.landmarks, 500, 300).values():
                assert 0 <= shown_x < 500
                assert 0 <= shown_y < 300
