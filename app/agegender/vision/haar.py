"""The face detector that comes with OpenCV: bounding boxes only."""

from __future__ import annotations

import threading
from typing import Literal

import cv2
import cv2.data
import numpy as np

from agegender.vision.detect import COPY_SIDE, Found, shrink
from agegender.vision.face import Detail, Face
from agegender.vision.image import Image

HAAR_MIN_CONFIDENCE = 0.9
"""Higher than YuNet's: most photographs contain more background than the images that confidences were fitted on."""

# The cascade's last stage sums to 54 to 60 for a hit. A logistic curve, fitted to the share of such hits that YuNet
# takes for faces on validation images of UTKFace and FairFace (training/EXPERIMENTS.md), makes it a confidence.
_CENTRE = 54.4
_SLOPE = 3.4
# The cascade finds only faces with some room around forehead and chin: on UTKFace's chips two thirds of the faces, and
# 97 % with a border of an eighth of their side.
_BORDER = 1 / 8

_CASCADE = f"{cv2.data.haarcascades}haarcascade_frontalface_alt2.xml"


class Haar:
    """OpenCV's cascade of frontal faces (Viola and Jones, 2001; trained by Lienhart).

    `alt2` misses half as many faces as OpenCV's default cascade. Needs no download. May be shared by threads. It takes
    ten times as long as YuNet, so it searches one copy of 640 pixels at any detail, and upright faces only.
    """

    name: Literal["haar"] = "haar"

    def __init__(self) -> None:
        self._of_thread = threading.local()  # a cascade each: they are not to be shared

    def detect(
        self,
        image: Image,
        min_confidence: float | None = None,
        detail: Detail = "auto",  # noqa: ARG002
    ) -> list[Face]:
        """See `Detector.detect`."""
        threshold = HAAR_MIN_CONFIDENCE if min_confidence is None else min_confidence
        small, scale = shrink(image, round(COPY_SIDE / (1 + 2 * _BORDER)))
        return self._find(small, threshold).moved(np.diag(1 / scale)).faces(image)

    def _find(self, image: Image, threshold: float) -> Found:
        grey = cv2.equalizeHist(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
        smallest = max(24, round(0.05 * max(grey.shape)))
        border = round(_BORDER * max(grey.shape))
        if not hasattr(self._of_thread, "cascade"):
            self._of_thread.cascade = cv2.CascadeClassifier(_CASCADE)
        boxes, _, weights = self._of_thread.cascade.detectMultiScale3(
            cv2.copyMakeBorder(grey, border, border, border, border, cv2.BORDER_REPLICATE),
            scaleFactor=1.1,
            minNeighbors=3,
            minSize=(smallest, smallest),
            outputRejectLevels=True,
        )
        corners, sizes = np.reshape(boxes, (-1, 2, 2)).astype(np.float64).transpose(1, 0, 2)
        confidences = 1 / (1 + np.exp(_SLOPE * (_CENTRE - np.ravel(weights))))
        found = Found(corners - border + sizes / 2, sizes, np.empty((len(sizes), 0, 2)), confidences)
        return found.pick(confidences >= threshold)
