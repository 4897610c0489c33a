"""YuNet, the face detector of OpenCV Zoo, run by ONNX Runtime in half the time that OpenCV's own module takes.

Input and output are treated as in `cv2.FaceDetectorYN`: a test compares the two.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from agegender.inference import detector_file
from agegender.inference.session import load
from agegender.inference.yunet_network import with_joined_heads
from agegender.vision.detect import Floats, Found
from agegender.vision.face import Detail, Face
from agegender.vision.image import Image
from agegender.vision.turns import find_at_turns

# YuNet's own example script runs at 0.9, which loses blurred and turned faces; 0.6 keeps them.
_MIN_CONFIDENCE = 0.6
_MAX_OVERLAP = 0.3  # intersection over union, above which only the more confident of two boxes is kept
_MOST_BOXES = 5000
_STRIDES = (8, 16, 32)  # pixels a side of the cells of each output


class YuNet:
    """Wu et al., "YuNet: A Tiny Millisecond-level Face Detector" (2023), from OpenCV Zoo's file of March 2023.

    May be shared by threads.
    """

    name: Literal["yunet"] = "yunet"

    def __init__(self, model_path: Path) -> None:
        self._session = load(with_joined_heads(model_path.read_bytes()))

    @classmethod
    def installed(cls, path: Path | None = None) -> YuNet | None:
        """From the file that `detector_file.find` finds, or None where it finds none. Raises DetectorFileError."""
        file = detector_file.find(path)
        return None if file is None else cls(file)

    def detect(
        self, image: Image, min_confidence: float | None = None, detail: Detail = "auto"
    ) -> list[Face]:
        """See `Detector.detect`."""
        threshold = _MIN_CONFIDENCE if min_confidence is None else min_confidence
        return find_at_turns(self.find, image, threshold, detail).faces(image)

    def find(self, image: Image, threshold: float) -> Found:
        """Faces in `image` (height, width, 3) BGR as it is, as `cv2.FaceDetectorYN` finds them."""
        planes = _planes(image)
        (face, thing), places = self._session.run(None, {"input": planes})
        confidences = np.sqrt(face * thing)
        cells = np.flatnonzero(confidences >= threshold)
        corners, strides = (column[cells] for column in _cells(*planes.shape[2:]))
        places = places[:, cells].T
        found = Found(
            (corners + places[:, :2]) * strides,
            np.exp(places[:, 2:4]) * strides,
            # From the edge of the first pixel, where the network's count from its centre.
            (corners[:, np.newaxis] + places[:, 4:].reshape(-1, 5, 2)) * strides[:, np.newaxis] + 0.5,
            confidences[cells],
        )
        kept = cv2.dnn.NMSBoxes(
            np.hstack([found.centres - found.sizes / 2, found.sizes]).astype(np.int32).tolist(),
            found.confidences.tolist(),
            threshold,
            _MAX_OVERLAP,
            top_k=_MOST_BOXES,
        )
        return found.pick(np.asarray(kept, np.intp))


@lru_cache(maxsize=32)
def _cells(height: int, width: int) -> tuple[Floats, Floats]:
    """Column and row (n, 2) and stride (n, 1) of the cells of all strides for an image of that size."""
    corners, strides = [], []
    for stride in _STRIDES:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        corners.append(np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float64))
        strides.append(np.full((rows.size, 1), stride, np.float64))
    return np.concatenate(corners), np.concatenate(strides)


def _planes(image: Image) -> NDArray[np.float32]:
    """(1, 3, height, width) BGR, with black below and on the right up to whole cells of the coarsest stride.

    As `cv2.dnn.blobFromImage` makes of a padded image, in a third of its time.
    """
    coarsest = _STRIDES[-1]
    height, width = image.shape[:2]
    planes = np.empty((1, 3, -(-height // coarsest) * coarsest, -(-width // coarsest) * coarsest), np.float32)
    planes[:, :, height:] = 0
    planes[:, :, :, width:] = 0
    for plane, channel in zip(planes[0], cv2.split(image), strict=True):
        plane[:height, :width] = channel
    return planes
