from __future__ import annotations

import cv2
import numpy as np
import pytest
from agegender.inference.yunet import YuNet
from agegender.vision.decode import decode
from helpers import ASTRONAUT, GRACE_HOPPER, YUNET, needs_yunet
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = needs_yunet

PHOTOGRAPHS = [decode(path.read_bytes()) for path in (ASTRONAUT, GRACE_HOPPER)]


@pytest.fixture(scope="module")
def yunet() -> YuNet:
    return YuNet(YUNET)


def as_opencv_finds_them(image: np.ndarray, min_confidence: float) -> np.ndarray:
    """(n, 15): box, five points and confidence of each face, as `cv2.FaceDetectorYN` says them."""
    height, width = image.shape[:2]
    reference = cv2.FaceDetectorYN.create(str(YUNET), "", (width, height), min_confidence, 0.3, 5000)
    rows = reference.detect(image)[1]
    return np.empty((0, 15)) if rows is None else rows


# From 33 pixels: for a single row or column of its coarsest cells, OpenCV 4.14 answers with what lay in memory.
@given(
    st.sampled_from(PHOTOGRAPHS),
    st.integers(33, 640),
    st.integers(33, 640),
    st.integers(1, 3),
    st.sampled_from([0.1, 0.3, 0.6, 0.9]),
)
@settings(max_examples=60, deadline=None)
def test_it_finds_what_opencv_finds(
    yunet: YuNet, photograph: np.ndarray, width: int, height: int, copies: int, min_confidence: float
) -> None:
    image = cv2.resize(np.hstack([photograph] * copies), (width, height), interpolation=cv2.INTER_AREA)
    expected = as_opencv_finds_them(image, min_confidence)
    # OpenCV's boxes reach beyond the image; ours are cut off by its edges.
    corners = expected[:, :2]
    low = np.clip(np.rint(corners), 0, None)
    high = np.clip(np.rint(corners + expected[:, 2:4]), None, (width, height))
    visible = np.all(high > low, axis=1)
    order = np.argsort(-np.prod((high - low)[visible], axis=1), kind="stable")
    found = yunet.find(image, min_confidence).faces(image)
    assert len(found) == visible.sum()
    for face, row, (x, y) in zip(found, expected[visible][order], low[visible][order], strict=True):
        assert (face.box.x, face.box.y) == pytest.approx((x, y), abs=1)
        assert face.confidence == pytest.approx(row[14], abs=1e-4)
        assert face.landmarks == pytest.approx(row[4:14].reshape(5, 2), abs=0.01)
