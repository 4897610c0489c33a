"""Where detectors put a face on UTKFace's chips: the measurement behind the constants of `agegender.vision.align`."""

from __future__ import annotations

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


def measure_template(utkface: Path, yunet: YuNet, haar: Haar) -> str:
    """The constants of `agegender.vision.align`: medians over UTKFace's archive or folder, in pixels of a chip.

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
    points = ", ".join(f"({x:.1f}, {y:.1f})" for x, y in np.median(landmarks, axis=0))
    box = ", ".join(f"{value:.1f}" for value in np.median(boxes, axis=0))
    chips = len(files) - len(unread.unreadable)
    return (
        f"# of {chips} chips, YuNet found {len(landmarks)} and Haar {len(boxes)}\n"
        f"TEMPLATE = np.array([{points}], np.float32)\nHAAR_BOX = ({box})"
    )
