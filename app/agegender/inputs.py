"""What `Predictor` and the clients take: photographs, and the options of a prediction."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from agegender.answers import DetectorChoice
from agegender.inference.ages import DEFAULT_COVERAGE, MAX_COVERAGE, MIN_COVERAGE
from agegender.vision.face import Detail

Photograph = str | os.PathLike[str] | bytes | NDArray[np.uint8]
"""Path of an image file, the bytes of one, or upright pixels (height, width, 3) uint8."""

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".heic", ".heif", ".hif", ".avif", ".gif",
    ".tif", ".tiff", ".bmp",
)  # fmt: skip
"""Files with these suffixes are read from folders; files that are named may have any."""

Channels = Literal["BGR", "RGB"]
"""Order of the colours in an array: BGR as OpenCV reads them, RGB as Pillow and most other libraries do."""


class PredictQuery(BaseModel):
    """Options of a prediction, which are the query parameters of POST /predict. The errors quote the descriptions."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(
        None,
        description="Id of a model; GET /models and `agegender models` list them. The default is the service's default "
        "model.",
        examples=["age_gender_B"],
    )
    detector: DetectorChoice = Field(
        "auto",
        description="One of auto, yunet, haar and none. auto is YuNet where its file is present, else Haar; none takes "
        "the whole image as one cropped face.",
    )
    min_confidence: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="A number from 0 to 1: faces with a lower confidence are left out. The default is 0.6 for YuNet "
        "and 0.9 for Haar.",
    )
    max_faces: int = Field(
        20,
        ge=1,
        le=100,
        description="A whole number from 1 to 100: the most faces in an answer. The largest are kept.",
    )
    detail: Detail = Field(
        "auto",
        description="One of fast, auto and thorough: how small the faces are found in a large photograph. fast "
        "finds those of a fortieth of its longest side, auto also those of 100 pixels, thorough those of 24.",
    )
    coverage: float = Field(
        DEFAULT_COVERAGE,
        ge=MIN_COVERAGE,
        le=MAX_COVERAGE,
        allow_inf_nan=False,
        description="A number from 0.5 to 0.99: with what probability the interval of an age holds the true age.",
    )
    distribution: bool = Field(
        False,
        description="true or false: whether to give the probability of each age from 0 to 100 years as well.",
    )


class Options(TypedDict, total=False):
    """The fields of `PredictQuery` as keyword arguments."""

    model: str | None
    detector: DetectorChoice
    min_confidence: float | None
    max_faces: int
    detail: Detail
    coverage: float
    distribution: bool


def file_or_pixels(photograph: Photograph, channels: Channels | None) -> bytes | NDArray[np.uint8]:
    """Return the bytes of a file, or BGR pixels (height, width, 3) of an array, which needs `channels`.

    Raises OSError where a file cannot be read, ValueError for an array of another shape or type, and TypeError for
    anything else.
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
            "An array needs the order of its colours: channels='BGR' as OpenCV reads them, or channels='RGB' as "
            "Pillow and most other libraries do."
        )
    return np.ascontiguousarray(photograph if channels == "BGR" else photograph[:, :, ::-1])
