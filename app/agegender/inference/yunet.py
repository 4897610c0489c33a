"""YuNet, the face detector of OpenCV Zoo, run by ONNX Runtime in half the time that OpenCV's own module takes.

Input and output are treated as in `cv2.FaceDetectorYN`: a test compares the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from agegender.inference import detector_file, runtime
from agegender.vision.detect import Found
from agegender.vision.face import Detail, Face
from agegender.vision.image import Image
from agegender.vision.turns import find_at_turns

# YuNet's own example script runs at 0.9, which loses blurred and turned faces; 0.6 keeps them.
_MIN_CONFIDENCE = 0.6
_MAX_OVERLAP = 0.3  # intersection over union, above which only the more confident of two boxes is kept
_MOST_BOXES = 5000
_STRIDES = (8, 16, 32)  # pixels a side of the cells of each output

# The published file declares an input of 640 x 640, though its network takes any size. These bytes of the declared
# shape, `dim_value: 640` in the words of onnx.proto, become `dim_param: "h"` and `dim_param: "w"`.
_FIXED_SIDE = b"\x0a\x03\x08\x80\x05"
_FREE_SIDES = (b"\x0a\x03\x12\x01h", b"\x0a\x03\x12\x01w")


class YuNet:
    """Wu et al., "YuNet: A Tiny Millisecond-level Face Detector" (2023), from OpenCV Zoo's file of March 2023.

    May be shared by threads.
    """

    name: Literal["yunet"] = "yunet"

    def __init__(self, model_path: Path) -> None:
        model = model_path.read_bytes()
        for free in _FREE_SIDES:
            model = model.replace(_FIXED_SIDE, free, 1)
        self._session = runtime.load(model)

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
        outputs = self._session.run(None, {"input": planes})
        corners, sizes, landmarks, confidences = [], [], [], []
        for level, stride in enumerate(_STRIDES):
            face, thing, box, points = (output[0] for output in outputs[level :: len(_STRIDES)])
            confidence = np.sqrt(face * thing)[:, 0]
            sure = np.flatnonzero(confidence >= threshold)
            cell = np.stack(np.divmod(sure, planes.shape[3] // stride)[::-1], axis=1)
            size = np.exp(box[sure, 2:]) * stride
            corners.append((cell + box[sure, :2]) * stride - size / 2)
            sizes.append(size)
            landmarks.append((cell[:, np.newaxis] + points[sure].reshape(-1, 5, 2)) * stride)
            confidences.append(confidence[sure])
        corner, size, confidence = map(np.concatenate, (corners, sizes, confidences))
        kept = cv2.dnn.NMSBoxes(
            np.hstack([corner, size]).astype(np.int32).tolist(),
            confidence.tolist(),
            threshold,
            _MAX_OVERLAP,
            top_k=_MOST_BOXES,
        )
        # Landmarks count from the centre of the first pixel.
        found = Found(corner + size / 2, size, np.concatenate(landmarks) + 0.5, confidence)
        return found.pick(np.asarray(kept, np.intp))


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
