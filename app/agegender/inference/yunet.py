"""YuNet, the face detector of OpenCV Zoo, run by ONNX Runtime in a third of the time that OpenCV's own module takes.

What goes in, and what is made of what comes out, is as in `cv2.FaceDetectorYN`: a test holds the two together.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from agegender.inference import detector_file, runtime
from agegender.inference.yunet_network import STRIDES, with_joined_heads
from agegender.vision.detect import DEFAULT_MAX_SIDE, by_area, clip, shrink
from agegender.vision.face import Face
from agegender.vision.image import Image

# YuNet's own example script runs at 0.9, which loses blurred and turned faces; 0.6 keeps them.
_MIN_CONFIDENCE = 0.6
_MAX_OVERLAP = 0.3  # intersection over union, above which the surer of two boxes alone is kept
_MOST_BOXES = 5000


class YuNet:
    """Wu et al., "YuNet: A Tiny Millisecond-level Face Detector" (2023), out of OpenCV Zoo's file of March 2023.

    May be shared by threads.
    """

    name: Literal["yunet"] = "yunet"

    def __init__(self, model_path: Path, max_side: int = DEFAULT_MAX_SIDE) -> None:
        self._max_side = max_side
        self._session = runtime.load(with_joined_heads(model_path.read_bytes()))

    @classmethod
    def installed(cls, path: Path | None = None, max_side: int = DEFAULT_MAX_SIDE) -> YuNet | None:
        """From the file that `detector_file.find` finds, or None where it finds none. Raises DetectorFileError."""
        file = detector_file.find(path)
        return None if file is None else cls(file, max_side)

    def detect(self, image: Image, min_confidence: float | None = None) -> list[Face]:
        """See `Detector.detect`."""
        small, scale = shrink(image, self._max_side)
        threshold = _MIN_CONFIDENCE if min_confidence is None else min_confidence
        boxes, landmarks, confidences = self._find(small, threshold)
        # Points count from the centre of the first pixel, which a change of resolution moves.
        points = ((landmarks + 0.5) / scale - 0.5).astype(np.float32)
        visible = [clip(box, image) for box in boxes / scale]
        found = zip(visible, confidences.tolist(), points, strict=True)
        return sorted((Face(box, *told) for box, *told in found if box is not None), key=by_area)

    def _find(
        self, image: Image, threshold: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Boxes (n, 2, 2) as corner and size, landmarks (n, 5, 2), both in pixels of `image`, and confidences (n,)."""
        # A confidence is the root of the product of two probabilities, neither of which can be less than its square.
        # The second one is that small in nearly all cells: few are left to look at.
        least = _logit(threshold**2)
        cells, places = [], []
        outputs = self._session.run(None, {"input": _planes(image)})
        for stride, (told,) in zip(STRIDES, outputs, strict=True):
            channels, rows, columns = told.shape
            flat = told.reshape(channels, rows * columns)
            sure = np.flatnonzero(flat[1] >= least)
            row, column = np.divmod(sure, columns)
            cells.append(flat[:, sure])
            places.append((column, row, np.full_like(sure, stride)))
        told = np.concatenate(cells, axis=1)
        column, row, stride = np.concatenate(places, axis=1).astype(np.float32)
        cell = np.stack([column, row])
        with np.errstate(over="ignore"):  # a confidence of 0
            face, thing = 1 / (1 + np.exp(-told[:2]))
        confidence = np.sqrt(face * thing)
        size = np.exp(told[4:6]) * stride
        boxes = np.stack([(cell + told[2:4]) * stride - size / 2, size])
        landmarks = (cell + told[6:].reshape(5, 2, -1)) * stride
        kept = cv2.dnn.NMSBoxes(
            boxes.reshape(4, -1).T.astype(np.int32).tolist(),
            confidence.tolist(),
            threshold,
            _MAX_OVERLAP,
            top_k=_MOST_BOXES,
        )
        which = np.asarray(kept, np.intp)
        return (
            boxes[..., which].transpose(2, 0, 1),
            landmarks[..., which].transpose(2, 0, 1),
            confidence[which],
        )


def _logit(probability: float) -> float:
    """What a sigmoid makes that probability of; nearly so of 0 and 1, where it is infinite."""
    probability = min(max(probability, 1e-30), 1 - 1e-7)
    return math.log(probability / (1 - probability))


def _planes(image: Image) -> NDArray[np.float32]:
    """(1, 3, height, width) BGR, with black below and on the right up to whole cells of the coarsest stride.

    As `cv2.dnn.blobFromImage` makes of a padded image, in a third of its time.
    """
    coarsest = STRIDES[-1]
    height, width = image.shape[:2]
    planes = np.empty((1, 3, -(-height // coarsest) * coarsest, -(-width // coarsest) * coarsest), np.float32)
    planes[:, :, height:] = 0
    planes[:, :, :, width:] = 0
    for plane, channel in zip(planes[0], cv2.split(image), strict=True):
        plane[:height, :width] = channel
    return planes
