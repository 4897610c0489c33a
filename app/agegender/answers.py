"""The answers of the service, which are those of `Predictor` too. Imports neither OpenCV nor ONNX Runtime."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from agegender.vision.face import Box, FaceWarning, Quality

DetectorName = Literal["yunet", "haar", "none"]
DetectorChoice = Literal["auto", DetectorName]
Point = tuple[int, int]


class ImageSize(BaseModel):
    """Pixels of the upright image."""

    width: int
    height: int


class Landmarks(BaseModel):
    """Five points as x, y in pixels of the upright image; right and left are the person's own."""

    right_eye: Point
    left_eye: Point
    nose: Point
    mouth_right: Point
    mouth_left: Point


class Age(BaseModel):
    """Estimate and interval in years; the true age lies from `low` to `high` with probability `coverage`."""

    years: float
    low: float
    high: float
    coverage: float
    distribution: list[float] | None = Field(
        None,
        exclude_if=lambda distribution: distribution is None,
        min_length=101,
        max_length=101,
        description="Calibrated probability of each age from 0 to 100, adding up to 1. Only with distribution=true.",
    )


class Gender(BaseModel):
    """The likelier of the labels in the training data, and its probability (at least 0.5)."""

    label: Literal["female", "male"]
    probability: float = Field(ge=0.5, le=1)


class FaceEstimate(BaseModel):
    """One face: where it is, and its estimated age and gender."""

    box: Box
    confidence: float | None = Field(ge=0, le=1, description="Null for detector=none.")
    landmarks: Landmarks | None = Field(
        description="Five points as x, y in pixels of the upright image; right and left are the person's own. Null for "
        "a detector that gives none."
    )
    roll: float | None = Field(
        description="Degrees by which the face is turned clockwise in the photograph, -180 to 180: 0 is upright, at 90 "
        "the top of the head is on the right. Null for a detector without landmarks."
    )
    quality: Quality | None = Field(
        description="How good the picture of the face is. Null for detector=none."
    )
    warnings: list[FaceWarning] = Field(
        description="What makes the estimate less reliable: small, blurred, dark, bright, turned to a side, cut "
        "off by the edge of the photograph, or tilted."
    )
    age: Age
    gender: Gender


class Timings(BaseModel):
    """Milliseconds spent on the image."""

    decode: float
    detect: float
    predict: float
    total: float


_PREDICTION: dict[str, Any] = {
    "model": "age_gender_B",
    "detector": "yunet",
    "image": {"width": 1366, "height": 768},
    "faces_found": 1,
    "faces": [
        {
            "box": {"x": 412, "y": 96, "width": 143, "height": 171},
            "confidence": 0.94,
            "landmarks": {
                "right_eye": [450, 160],
                "left_eye": [515, 158],
                "nose": [480, 200],
                "mouth_right": [455, 230],
                "mouth_left": [510, 228],
            },
            "roll": -1.8,
            "quality": {"score": 1.0, "size": 143, "sharpness": 0.21, "brightness": 0.48, "yaw": 4.5},
            "warnings": [],
            "age": {"years": 31.4, "low": 26.0, "high": 37.0, "coverage": 0.8},
            "gender": {"label": "female", "probability": 0.98},
        }
    ],
    "timings_ms": {"decode": 3.4, "detect": 3.0, "predict": 2.5, "total": 9.3},
}


class Prediction(BaseModel):
    """Faces by box area, largest first; none is an answer, not an error."""

    model_config = ConfigDict(json_schema_extra={"example": _PREDICTION})

    model: str
    detector: DetectorName
    image: ImageSize
    faces_found: int = Field(
        description="How many faces were found: more than in `faces` where `max_faces` left some out."
    )
    faces: list[FaceEstimate]
    timings_ms: Timings


class ImagePrediction(BaseModel):
    """One image of a batch, and its prediction."""

    filename: str = Field(description="As it was sent.")
    prediction: Prediction


class ImageProblem(BaseModel):
    """One image of a batch, and what is wrong with it."""

    filename: str = Field(description="As it was sent.")
    error: Problem


class BatchAnswer(BaseModel):
    """One result for each image, in the order sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "results": [
                    {"filename": "one.jpg", "prediction": _PREDICTION},
                    {
                        "filename": "two.jpg",
                        "error": {
                            "type": "/problems/image-unreadable",
                            "title": "Image unreadable",
                            "status": 400,
                            "detail": "This file is not a readable image. "
                            "Send a JPEG, PNG, WebP, HEIC, AVIF, GIF, TIFF or BMP file.",
                            "instance": "/predict/batch",
                            "request_id": "3f0c5a9e",
                        },
                    },
                ]
            }
        }
    )

    results: list[ImagePrediction | ImageProblem]


_MODEL: dict[str, Any] = {
    "id": "age_gender_B",
    "title": "MobileNetV2, fine-tuned",
    "architecture": "MobileNetV2 1.0",
    "description": "Transfer learning from ImageNet; every layer fine-tuned.",
    "input_size": 128,
    "parameters": 2388646,
    "sha256": "0" * 64,
    "trained_on": "UTKFace",
    "licence": "Weights for non-commercial research only",
    "created": "2026-01-02T03:04:05Z",
    "metrics": {"age_mae": 4.4, "gender_accuracy": 0.94, "n": 2100},
    "loaded": True,
}


class ModelMetrics(BaseModel):
    """Figures on the test split; further numbers may stand beside the named ones."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, float]

    age_mae: float = Field(ge=0, description="Mean absolute error, years.")
    gender_accuracy: float = Field(ge=0, le=1)
    n: int = Field(gt=0, description="Faces measured on.")


class ModelAnswer(BaseModel):
    """A model: what it is, what it was trained on, and how it did on faces that it was not trained on."""

    model_config = ConfigDict(json_schema_extra={"example": _MODEL})

    id: str
    title: str
    architecture: str
    description: str
    input_size: int = Field(description="Side of the square crop, pixels.")
    parameters: int
    sha256: str = Field(description="Of the model's file.")
    trained_on: str
    licence: str
    created: AwareDatetime
    metrics: ModelMetrics
    loaded: bool = Field(description="Whether it runs here.")


class ModelsAnswer(BaseModel):
    """All models, which of them answers by default, and which detector `auto` means here."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"default": "age_gender_B", "detector": "yunet", "models": [_MODEL]},
        }
    )

    default: str
    detector: Literal["yunet", "haar"] = Field(description="The detector behind detector=auto.")
    models: list[ModelAnswer]


class HealthAnswer(BaseModel):
    """The process is live, or the service is ready."""

    status: Literal["live", "ready"]


class Problem(BaseModel):
    """What is wrong with a request (RFC 9457), and what to do about it."""

    type: str = Field(description="What kind of problem, as a stable relative URI.")
    title: str
    status: int
    detail: str = Field(description="What is wrong and what to do, in a sentence.")
    instance: str = Field(description="Path of the request.")
    request_id: str
