"""An image file to its faces, each with an age and a gender."""

from __future__ import annotations

import time

import cv2
import numpy as np
from numpy.typing import NDArray

from agegender.answers import (
    Age,
    DetectorChoice,
    FaceEstimate,
    Gender,
    ImageSize,
    Landmarks,
    Prediction,
    Timings,
)
from agegender.inference.ages import AGES, DEFAULT_COVERAGE, calibrate_distributions, certainty, read_ages
from agegender.inference.gender import temper
from agegender.inference.metadata import Variant
from agegender.inference.session import OnnxSession
from agegender.inference.variants import Catalogue
from agegender.inference.yunet import YuNet
from agegender.vision.align import crop_face, crop_whole, roll_of
from agegender.vision.decode import DEFAULT_MAX_MEMORY, decode
from agegender.vision.face import Box, Detail, Face, landmark_pixels
from agegender.vision.haar import Haar
from agegender.vision.image import Image
from agegender.vision.quality import assess


class DetectorUnavailable(Exception):
    """YuNet was asked for and its file is not there; str(e) is a sentence for the caller."""


class Pipeline:
    """Decodes, detects, crops and runs the model, on the calling thread. May be shared by threads."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        yunet: YuNet | None,
        max_image_memory: int = DEFAULT_MAX_MEMORY,
    ) -> None:
        # There are as many workers as cores: OpenCV's own threads, one a core unless the process says
        # otherwise, would take turns with them.
        cv2.setNumThreads(1)
        self._catalogue = catalogue
        self._max_image_memory = max_image_memory
        self._yunet = yunet
        self._haar = Haar()

    def predict(
        self,
        photograph: bytes | memoryview | NDArray[np.uint8],
        *,
        model: str,
        detector: DetectorChoice = "auto",
        min_confidence: float | None = None,
        max_faces: int = 20,
        detail: Detail = "auto",
        coverage: float = DEFAULT_COVERAGE,
        distribution: bool = False,
    ) -> Prediction:
        """Estimate age and gender of the `max_faces` largest faces in an image file or in pixels.

        Pixels are upright (height, width, 3) BGR, and not bounded. `min_confidence` is 0 to 1, or None for the
        detector's own; `detail`, `coverage` and `distribution` as in `PredictQuery`. Raises UnknownModel,
        DetectorUnavailable, ImageUnreadable or ImageTooLarge.
        """
        begun = time.perf_counter()
        session, variant = self._catalogue[model].session, self._catalogue[model].variant
        finder = self.detector(detector)

        image = (
            photograph if isinstance(photograph, np.ndarray) else decode(photograph, self._max_image_memory)
        )
        height, width = image.shape[:2]
        size = ImageSize(width=width, height=height)
        decoded = time.perf_counter()

        whole = Face(Box(0, 0, width, height))
        found = [whole] if finder is None else finder.detect(image, min_confidence, detail)
        faces = found[:max_faces]  # the largest: they come first
        detected = time.perf_counter()

        crops = [crop_face(image, face) for face in faces] if finder else [crop_whole(image)]
        estimates = _estimate(session, variant, image, faces, crops, coverage, distribution)
        predicted = time.perf_counter()

        return Prediction(
            model=model,
            detector="none" if finder is None else finder.name,
            image=size,
            faces_found=len(found),
            faces=estimates,
            timings_ms=Timings(
                decode=round(1000 * (decoded - begun), 2),
                detect=round(1000 * (detected - decoded), 2),
                predict=round(1000 * (predicted - detected), 2),
                total=round(1000 * (predicted - begun), 2),
            ),
        )

    def warm(self) -> None:
        """Run the default detector and each model once, since the first run is slow."""
        blank = np.zeros((480, 640, 3), np.uint8)
        (self._yunet or self._haar).detect(blank)
        for model in self._catalogue:
            model.session.run(crop_whole(blank)[np.newaxis])

    def detector(self, choice: DetectorChoice) -> YuNet | Haar | None:
        """The detector of that name; None for `none`. Raises DetectorUnavailable."""
        if choice == "none":
            return None
        if choice == "haar" or (choice == "auto" and self._yunet is None):
            return self._haar
        if self._yunet is None:
            raise DetectorUnavailable(
                "The detector yunet is not installed here: use auto or haar, or let the operator run "
                "`agegender fetch-detector` and start the service again."
            )
        return self._yunet


def _estimate(
    session: OnnxSession,
    variant: Variant,
    image: Image,
    faces: list[Face],
    crops: list[NDArray[np.uint8]],
    coverage: float,
    distribution: bool,
) -> list[FaceEstimate]:
    """Run the model on all crops at once, and read its probabilities as ages and genders."""
    if not faces:
        return []
    age, male = session.run(np.stack(crops))
    usual = ages = read_ages(age, variant.age_estimate, variant.age_interval)
    if coverage != DEFAULT_COVERAGE:
        ages = read_ages(age, variant.age_estimate, variant.age_interval, coverage)
    distributions: list[list[float] | None] = [None] * len(faces)
    if distribution:
        calibrated = calibrate_distributions(age, variant.age_estimate, variant.age_interval)
        distributions = list(map(_rounded, calibrated))
    scores = certainty(usual, variant.age_interval).tolist()
    male_probability = temper(male, variant.gender_temperature).tolist()
    estimates = []
    for face, crop, score, years, low, high, probabilities, probability in zip(
        faces, crops, scores, *ages, distributions, male_probability, strict=True
    ):
        quality, warnings = (None, []) if face.confidence is None else assess(face, crop, image, score)
        landmarks = roll = None
        if face.landmarks is not None:
            landmarks = Landmarks(**landmark_pixels(face.landmarks, image.shape[1], image.shape[0]))
            roll = round(roll_of(face.landmarks), 1)
        estimates.append(
            FaceEstimate(
                box=face.box,
                confidence=None if face.confidence is None else round(face.confidence, 4),
                landmarks=landmarks,
                roll=roll,
                quality=quality,
                warnings=warnings,
                age=Age(
                    years=_years(years),
                    low=_years(low),
                    high=_years(high),
                    coverage=coverage,
                    distribution=probabilities,
                ),
                gender=Gender(
                    label="male" if probability >= 0.5 else "female",
                    probability=round(max(probability, 1 - probability), 4),
                ),
            )
        )
    return estimates


def _years(age: float) -> float:
    # The last class, of 100 years, ends half a year later.
    return min(round(float(age), 1), AGES - 1.0)


def _rounded(distribution: NDArray[np.float64]) -> list[float]:
    """Probabilities (101,) with five decimals that still add up to 1: their sums are rounded."""
    probabilities: list[float] = np.diff(distribution.cumsum().round(5), prepend=0).round(5).tolist()
    return probabilities
