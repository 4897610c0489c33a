"""Where detectors put a face on UTKFace's chips: the measurement behind the constants of `agegender.vision.align`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from agegender.inference.yunet import YuNet
from agegender.vision.align import CHIP_SIZE
from agegender.vision.haar import Haar
from numpy.typing import NDArray
from rich.progress import track

from training.data import Summary, as_folder, most_central, read_image
from training.errors import TrainingError

_AROUND = CHIP_SIZE // 4
"""Pixels of border around a chip that Haar is shown."""


@dataclass(frozen=True)
class Template:
    """Medians over chips, in pixels of 200x200; printed, they are the lines of `agegender.vision.align`."""

    landmarks: NDArray[np.float64]
    """(5, 2) x, y of YuNet's points, in the order of `LANDMARK_NAMES`."""
    haar_box: NDArray[np.float64]
    """(3,) x, y and side of Haar's box."""
    chips: int
    yunet_faces: int
    haar_faces: int
    """How many chips there were, and on how many each detector found a face."""

    def __str__(self) -> str:
        points = ", ".join(f"({x:.1f}, {y:.1f})" for x, y in self.landmarks)
        box = ", ".join(f"{value:.1f}" for value in self.haar_box)
        found = f"# of {self.chips} chips, YuNet found {self.yunet_faces} and Haar {self.haar_faces}"
        return f"{found}\nTEMPLATE = np.array([{points}], np.float32)\nHAAR_BOX = ({box})"


def measure_template(utkface: Path, yunet: YuNet, haar: Haar) -> Template:
    """Run both detectors over every chip of UTKFace's archive or folder.

    Raises TrainingError if no face is found, or if an image does not have the size of a chip.
    """
    landmarks: list[NDArray[np.float32]] = []
    boxes: list[tuple[int, int, int]] = []
    unread = Summary()
    with as_folder(utkface) as folder:
        files = sorted(folder.rglob("*.jpg"))
        for file in track(files, "UTKFace"):
            image = read_image(file, file.name, unread)
            if image is None:
                continue
            if image.shape[:2] != (CHIP_SIZE, CHIP_SIZE):
                raise TrainingError(f"{file.name} is not an aligned chip of {CHIP_SIZE}x{CHIP_SIZE} pixels.")
            face = most_central(yunet.detect(image), image)
            if face is not None and face.landmarks is not None:
                landmarks.append(face.landmarks)
            # Haar misses larger faces at the edges of an image.
            bordered = cv2.copyMakeBorder(image, _AROUND, _AROUND, _AROUND, _AROUND, cv2.BORDER_REPLICATE)
            around = np.asarray(bordered, np.uint8)
            face = most_central(haar.detect(around), around)
            if face is not None and face.whole is not None:
                boxes.append((face.whole.x - _AROUND, face.whole.y - _AROUND, face.whole.width))
    if not landmarks or not boxes:
        raise TrainingError(f"{utkface} contains no faces: is it UTKFace's archive or folder?")
    return Template(
        np.median(np.array(landmarks, np.float64), axis=0),
        np.median(np.array(boxes, np.float64), axis=0),
        len(files) - len(unread.unreadable),
        len(landmarks),
        len(boxes),
    )
