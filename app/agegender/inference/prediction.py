"""What is said of an image. Light to import: neither OpenCV nor ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agegender.vision.face import Box, Landmarks

DetectorChoice = Literal["auto", "yunet", "haar", "none"]
DetectorName = Literal["yunet", "haar", "none"]


@dataclass(frozen=True, slots=True)
class Age:
    """Estimate and interval, years; the true age lies in the interval with probability `coverage`."""

    years: float
    low: float
    high: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Gender:
    """The likelier label, and its probability: at least 0.5."""

    label: Literal["female", "male"]
    probability: float


@dataclass(frozen=True, slots=True)
class FaceEstimate:
    """One face: where it is, in pixels of the upright image, and what the model says of it."""

    box: Box
    confidence: float | None
    landmarks: Landmarks | None
    age: Age
    gender: Gender


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds spent; `predict` is cropping and running the model."""

    decode: float
    detect: float
    predict: float
    total: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was found in an image of `width` x `height` (upright) pixels; faces by box area, largest first."""

    model: str
    detector: DetectorName
    width: int
    height: int
    faces: tuple[FaceEstimate, ...]
    timings_ms: Timings
