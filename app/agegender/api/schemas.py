"""The JSON of requests and answers, with the examples that the OpenAPI document shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from agegender.inference import prediction as said
from agegender.inference.ages import AGES
from agegender.inference.metadata import Metrics
from agegender.inference.prediction import DetectorChoice, DetectorName, FaceEstimate
from agegender.vision.face import landmark_pixels

if TYPE_CHECKING:  # the client needs these classes, but not what runs models
    from agegender.inference.variants import Model

Point = tuple[int, int]


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


class NoQuery(BaseModel):
    """For what takes no query parameter."""

    model_config = ConfigDict(extra="forbid")


class ImageSize(BaseModel):
    """Pixels of the upright image."""

    width: int
    height: int


class Box(BaseModel):
    """Bounding box in pixels of the upright image, origin top left."""

    x: int
    y: int
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


class Gender(BaseModel):
    """The likelier of the labels in the training data, and its probability (at least 0.5)."""

    label: Literal["female", "male"]
    probability: float = Field(ge=0.5, le=1)


class FaceAnswer(BaseModel):
    """One face."""

    box: Box
    confidence: float | None = Field(ge=0, le=1, description="Null for detector=none.")
    landmarks: Landmarks | None = Field(
        description="Five points as x, y in pixels of the upright image; right and left are the person's own. Null for "
        "a detector that gives none."
    )
    age: Age
    gender: Gender


class TimingsMs(BaseModel):
    """Milliseconds spent on the image."""

    decode: float
    detect: float
    predict: float
    total: float


_PREDICTION: dict[str, Any] = {
    "model": "age_gender_B",
    "detector": "yunet",
    "image": {"width": 1366, "height": 768},
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
            "age": {"years": 31.4, "low": 26.0, "high": 37.0, "coverage": 0.8},
            "gender": {"label": "female", "probability": 0.98},
        }
    ],
    "timings_ms": {"decode": 3.4, "detect": 3.0, "predict": 2.5, "total": 9.3},
}


class PredictionAnswer(BaseModel):
    """Faces by box area, largest first; none is an answer, not an error."""

    model_config = ConfigDict(json_schema_extra={"example": _PREDICTION})

    model: str
    detector: DetectorName
    image: ImageSize
    faces: list[FaceAnswer]
    timings_ms: TimingsMs

    @classmethod
    def of(cls, prediction: said.Prediction) -> PredictionAnswer:
        """The answer that says `prediction`."""
        timings = prediction.timings_ms
        return cls(
            model=prediction.model,
            detector=prediction.detector,
            image=ImageSize(width=prediction.width, height=prediction.height),
            faces=[_face(face, prediction.width, prediction.height) for face in prediction.faces],
            timings_ms=TimingsMs(
                decode=round(timings.decode, 2),
                detect=round(timings.detect, 2),
                predict=round(timings.predict, 2),
                total=round(timings.total, 2),
            ),
        )


def _face(face: FaceEstimate, width: int, height: int) -> FaceAnswer:
    points = None
    if face.landmarks is not None:
        points = Landmarks(**landmark_pixels(face.landmarks, width, height))
    box, age, gender = face.box, face.age, face.gender
    return FaceAnswer(
        box=Box(x=box.x, y=box.y, width=box.width, height=box.height),
        confidence=None if face.confidence is None else round(face.confidence, 4),
        landmarks=points,
        age=Age(years=_years(age.years), low=_years(age.low), high=_years(age.high), coverage=age.coverage),
        gender=Gender(label=gender.label, probability=round(gender.probability, 4)),
    )


def _years(age: float) -> float:
    # The last class, of 100 years, ends half a year later.
    return min(round(age, 1), AGES - 1.0)


class ImagePrediction(BaseModel):
    """One image of a batch, and what POST /predict says of it."""

    model_config = ConfigDict(extra="forbid")

    filename: str = Field(description="As it was sent.")
    prediction: PredictionAnswer


class ImageProblem(BaseModel):
    """One image of a batch, and what was wrong with it."""

    model_config = ConfigDict(extra="forbid")

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
                            "detail": "The data is no image that can be read. "
                            "Send a JPEG, PNG, WebP, BMP or AVIF file.",
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
    "unavailable": None,
}


class ModelAnswer(BaseModel):
    """A model: what it is, what it learned from, and how well it did on faces it had never seen."""

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
    metrics: Metrics
    loaded: bool = Field(description="Whether it can be asked for predictions.")
    unavailable: str | None = Field(description="Why it cannot, if it cannot.")

    @classmethod
    def of(cls, model: Model) -> ModelAnswer:
        """The answer that describes `model`."""
        described: dict[str, Any] = model.variant.model_dump(include=set(cls.model_fields) - {"metrics"})
        return cls(
            **described,
            metrics=model.variant.metrics,
            loaded=model.session is not None,
            unavailable=model.unavailable,
        )


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
    """All is well."""

    status: Literal["live", "ready"]


class Problem(BaseModel):
    """What was wrong with a request, and what to do about it."""

    type: str = Field(description="What kind of problem, as a stable relative URI.")
    title: str
    status: int
    detail: str = Field(description="What was wrong and what to do, in a sentence.")
    instance: str = Field(description="Path of the request.")
    request_id: str
