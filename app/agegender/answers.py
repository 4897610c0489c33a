"""The answers of the service and of `Predictor`. This module imports neither OpenCV nor ONNX Runtime."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from agegender.vision.face import Box, FaceWarning, Quality

DetectorName = Literal["yunet", "haar", "none"]
DetectorChoice = Literal["auto", DetectorName]
Point = tuple[int, int]
Text = Annotated[str, Field(min_length=1)]


class ImageSize(BaseModel):
    """Pixels of the upright image."""

    width: int
    height: int


class Landmarks(BaseModel):
    """Five points as x, y in pixels of the upright image. Right and left are those of the person."""

    right_eye: Point
    left_eye: Point
    nose: Point
    mouth_right: Point
    mouth_left: Point


class Age(BaseModel):
    """Estimate and interval in years: the true age lies between `low` and `high` with probability `coverage`."""

    years: float
    low: float
    high: float
    coverage: float
    distribution: list[float] | None = Field(
        None,
        exclude_if=lambda distribution: distribution is None,
        min_length=101,
        max_length=101,
        description="Calibrated probabilities of the ages 0 to 100; they sum to 1. Only with distribution=true.",
    )


class Gender(BaseModel):
    """The more probable of the two labels in the training data, and its probability (0.5 to 1)."""

    label: Literal["female", "male"]
    probability: float = Field(ge=0.5, le=1)


class FaceEstimate(BaseModel):
    """One face: its position, and its estimated age and gender."""

    box: Box
    confidence: float | None = Field(ge=0, le=1, description="Null for detector=none.")
    landmarks: Landmarks | None = Field(
        description="Five points as x, y in pixels of the upright image. Right and left are those of the person. Null "
        "for detectors without landmarks."
    )
    roll: float | None = Field(
        description="Clockwise rotation of the face in the photograph in degrees, -180 to 180: 0 is upright, at 90 the "
        "top of the head is on the right. Null for detectors without landmarks."
    )
    quality: Quality | None = Field(description="Quality of the picture of the face. Null for detector=none.")
    warnings: list[FaceWarning] = Field(
        description="What makes the estimate less reliable: the face is small, blurred, dark, bright, turned to the "
        "side, cut off by the edge of the photograph, or tilted."
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
    """The faces in a photograph by box area, largest first. The list is empty if no face is found."""

    model_config = ConfigDict(json_schema_extra={"example": _PREDICTION})

    model: str
    detector: DetectorName
    image: ImageSize
    faces_found: int = Field(
        description="Number of faces found, including those that `max_faces` drops from `faces`."
    )
    faces: list[FaceEstimate]
    timings_ms: Timings


class ImagePrediction(BaseModel):
    """One image of a batch, and its prediction."""

    filename: str = Field(description="As sent.")
    prediction: Prediction


class ImageProblem(BaseModel):
    """One image of a batch, and what is wrong with it."""

    filename: str = Field(description="As sent.")
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
                            "detail": "The image is empty: it has no bytes. Send an image file.",
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
    """Figures on the test split; there may be further numbers besides the named ones."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, float]

    age_mae: float = Field(ge=0, description="Mean absolute error, years.")
    gender_accuracy: float = Field(ge=0, le=1)
    n: int = Field(gt=0, description="Number of test faces.")


class ModelInfo(BaseModel):
    """What is known about a model without running it."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    title: Text
    architecture: Text
    description: Text
    input_size: Literal[128] = Field(description="Side of the square crop in pixels.")
    parameters: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the model's file.")
    trained_on: Text
    licence: Text
    created: AwareDatetime
    metrics: ModelMetrics


class ModelAnswer(ModelInfo):
    """A model, its training data, and its figures on faces that it was not trained on."""

    model_config = ConfigDict(json_schema_extra={"example": _MODEL})

    loaded: bool = Field(description="Whether the model is loaded.")


class ModelsAnswer(BaseModel):
    """All models, the default model, and the detector that `auto` stands for."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"default": "age_gender_B", "detector": "yunet", "models": [_MODEL]},
        }
    )

    default: str
    detector: Literal["yunet", "haar"] = Field(description="The detector that detector=auto stands for.")
    models: list[ModelAnswer]


class HealthAnswer(BaseModel):
    """Whether the process is live or the service is ready."""

    status: Literal["live", "ready"]


class Problem(BaseModel):
    """What is wrong with a request (RFC 9457), and what to do about it."""

    type: str = Field(description="The kind of problem, as a stable relative URI.")
    title: str
    status: int
    detail: str = Field(description="A sentence that says what is wrong and what to do.")
    instance: str = Field(description="Path of the request.")
    request_id: str
