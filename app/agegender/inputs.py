"""The arguments of `Predictor` and the clients: photographs, and the options of a prediction."""

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
"""Path of an image file, the bytes of an image file, or the upright pixels, (height, width, 3) uint8."""

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".heic", ".heif", ".hif", ".avif", ".gif",
    ".tif", ".tiff", ".bmp",
)  # fmt: skip
"""Only files with these suffixes are read from folders; files that are given by name may have any suffix."""

Channels = Literal["BGR", "RGB"]
"""Order of the colours in an array: BGR as OpenCV reads them, RGB as Pillow and most other libraries do."""


class PredictQuery(BaseModel):
    """Options of a prediction: the query parameters of POST /predict. Error messages quote the descriptions."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(
        None,
        description="Id of a model, as GET /models and `agegender models` list them. The default is the service's "
        "default model.",
        examples=["age_gender_B"],
    )
    detector: DetectorChoice = Field(
        "auto",
        description="One of auto, yunet, haar and none. auto uses YuNet if it is installed, else Haar; none treats the "
        "whole image as one cropped face.",
    )
    min_confidence: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="A number from 0 to 1: faces with a lower confidence are dropped. The default is 0.6 for YuNet and "
        "0.9 for Haar.",
    )
    max_faces: int = Field(
        20,
        ge=1,
        le=100,
        description="A whole number from 1 to 100: the maximum number of faces in the answer. The largest are kept.",
    )
    detail: Detail = Field(
        "auto",
        description="One of fast, auto and thorough: how small a face may be in a large photograph. fast finds faces "
        "from 1/40 of the longest side, auto also those from 100 pixels, thorough those from 24 pixels.",
    )
    coverage: float = Field(
        DEFAULT_COVERAGE,
        ge=MIN_COVERAGE,
        le=MAX_COVERAGE,
        allow_inf_nan=False,
        description="A number from 0.5 to 0.99: the probability that the interval contains the true age.",
    )
    distribution: bool = Field(
        False,
        description="true or false: whether to include the probability of each age from 0 to 100 years.",
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
    """Return the bytes of the file, or for an array its pixels in BGR order, (height, width, 3) uint8.

    An array needs `channels`. Raises OSError if a file cannot be read, ValueError for an array of another shape or
    dtype or without `channels`, and TypeError if `photograph` is of another type.
    """
    if isinstance(photograph, bytes):
        return photograph
    if not isinstance(photograph, np.ndarray):
        return Path(photograph).read_bytes()
    if photograph.dtype != np.uint8 or photograph.shape[2:] != (3,) or not photograph.size:
        raise ValueError(
            f"An array must be (height, width, 3) uint8, not {photograph.shape} {photograph.dtype}."
        )
    if channels not in ("BGR", "RGB"):
        raise ValueError(
            "An array needs the order of its colours: give channels='BGR' for pixels from OpenCV, or channels='RGB' "
            "for those from Pillow and most other libraries."
        )
    return np.ascontiguousarray(photograph if channels == "BGR" else photograph[:, :, ::-1])
