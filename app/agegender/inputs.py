"""What callers hand over, to the client as to `agegender.Predictor`: photographs, and options of a prediction."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from agegender.answers import DetectorChoice

Photograph = str | os.PathLike[str] | bytes | NDArray[np.uint8]
"""Path of an image file, the bytes of one, or upright pixels (height, width, 3) uint8."""

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".avif")
"""Of the files that are taken from a folder; those that are named may have any."""

Channels = Literal["BGR", "RGB"]
"""Order of colours in an array: BGR as OpenCV reads them, RGB as Pillow and most others do."""


class Options(TypedDict, total=False):
    """Options of a prediction, each as in the query of `POST /predict`, which says what is allowed."""

    model: str | None
    """An id; None: the default model."""
    detector: DetectorChoice
    """auto, yunet, haar, or none for an image that is one cropped face."""
    min_confidence: float | None
    """0 to 1; None: the detector's own."""
    max_faces: int
    """1 to 100, the largest first; 20 unless given."""


class PredictQuery(BaseModel):
    """Query parameters of a prediction; each description says what is allowed, for errors too."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(
        None,
        description="An id from GET /models; without it, the service's default model.",
        examples=["age_gender_B"],
    )
    detector: DetectorChoice = Field(
        "auto",
        description="One of auto, yunet, haar and none. With auto it is YuNet where its file is present, else Haar; "
        "none says that the image is one face, already cropped.",
    )
    min_confidence: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="A number from 0 to 1: faces found with less confidence are left out. "
        "Without it, 0.6 for YuNet and 0.9 for Haar.",
    )
    max_faces: int = Field(
        20,
        ge=1,
        le=100,
        description="A whole number from 1 to 100: so many faces at most, the largest first.",
    )


def file_or_pixels(photograph: Photograph, channels: Channels | None) -> bytes | NDArray[np.uint8]:
    """The bytes of a file, or pixels in the order BGR.

    `channels` says what order an array has, and is needed for one. Raises OSError where a file cannot be read,
    ValueError for an array that is no picture, and TypeError for anything else.
    """
    if isinstance(photograph, bytes):
        return photograph
    if isinstance(photograph, str | os.PathLike):
        return Path(photograph).read_bytes()
    if not isinstance(photograph, np.ndarray):
        raise TypeError(
            f"A photograph is a path, the bytes of a file or a NumPy array, not {type(photograph).__name__}."
        )
    if photograph.dtype != np.uint8 or photograph.shape[2:] != (3,) or not photograph.size:
        raise ValueError(
            f"An array must be (height, width, 3) uint8; this one is {photograph.shape} {photograph.dtype}."
        )
    if channels not in ("BGR", "RGB"):
        raise ValueError(
            "Say in which order the colours of an array are: channels='BGR' as OpenCV reads them, or "
            "channels='RGB' as Pillow and most others do."
        )
    return np.ascontiguousarray(photograph if channels == "BGR" else photograph[:, :, ::-1])
