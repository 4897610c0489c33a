"""Measure the whole service: original images through `POST /predict`, with each detector."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from agegender import Client
from agegender.answers import DetectorChoice, FaceEstimate, Prediction
from agegender.client import AgeGenderError, BadRequest
from rich.progress import track

from training.data import (
    NAMES,
    UTKFACE,
    Faces,
    as_folder,
    distance_from_centre,
    fairface_files,
    utkface_files,
)
from training.errors import TrainingError
from training.evaluate import COLUMNS, MEASURES, Floats, Outcome, Table, figure, write
from training.labels import Label
from training.splits import TEST, split_of

DETECTORS: dict[str, tuple[DetectorChoice, ...]] = {
    UTKFACE: ("none", "yunet", "haar"),
    "fairface": ("yunet", "haar"),
}
"""What each data set's images are sent through; FairFace's are not crops, for which `none` would take them."""

_IN_FLIGHT = 4
"""Requests at a time: a service with one worker has room for five."""

_SHARES = ("age_cs5", "gender_accuracy", "right_bin", "right_or_next_bin")
"""What an image without a face counts as wrong in."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """An original image and the label of the face in it."""

    name: str
    path: Path
    label: Label


def measure(url: str, model: str, dataset: str, originals: Path, faces: Faces) -> Table:
    """Send the test images of a data set, `originals` (archive or folder), to the service at `url`.

    Raises TrainingError.
    """
    with as_folder(originals) as folder, Client(url) as client:
        photographs = photographs_of(dataset, folder, faces, TEST)
        answers = {
            detector: _ask_all(client, model, detector, photographs) for detector in DETECTORS[dataset]
        }
    return summarise(dataset, photographs, answers)


def summarise(
    dataset: str, photographs: Sequence[Photograph], answers: dict[DetectorChoice, list[FaceEstimate | None]]
) -> Table:
    """Figures by detector of the `answers` about the face in each photograph, None if it found none.

    The age error is of the faces that were found; an image without one counts as wrong in every share.
    """
    shares = [key for key in _SHARES if key in MEASURES[dataset]]
    rows = []
    for detector, found in answers.items():
        missed = [photo for photo, face in zip(photographs, found, strict=True) if face is None]
        seen = [
            (photo.label, face) for photo, face in zip(photographs, found, strict=True) if face is not None
        ]
        outcome = _outcome(dataset, seen)

        def padded(values: Floats, missing: int = len(missed)) -> Floats:
            return np.append(values, np.zeros(missing))

        cells = [write("age_mae", figure(MEASURES[dataset]["age_mae"](outcome)))] if seen else [""]
        cells += [write(key, figure(padded(MEASURES[dataset][key](outcome)))) for key in shares]
        rows.append((detector, f"{len(missed):,}", *cells))
    columns = (
        "detector",
        "missed",
        f"{COLUMNS['age_mae']}, of those found",
        *(COLUMNS[key] for key in shares),
    )
    return Table(f"{NAMES[dataset]}: {len(photographs):,} test images through the service", columns, rows)


def most_central_face(answer: Prediction) -> FaceEstimate | None:
    """Of the faces in an answer the one that the image is about, as when it was prepared."""
    size = answer.image
    return min(
        answer.faces, key=lambda face: distance_from_centre(face.box, size.width, size.height), default=None
    )


def photographs_of(dataset: str, folder: Path, faces: Faces, split: str) -> list[Photograph]:
    """The data set's images in `split`, with those that could not be prepared, no face having been found in them."""
    files = utkface_files(folder) if dataset == UTKFACE else fairface_files(folder, "train")
    of_dataset = faces.dataset == dataset
    splits = dict(zip(faces.name[of_dataset].tolist(), faces.split[of_dataset].tolist(), strict=True))
    chosen = [
        Photograph(name, path, label)
        for name, path, label in files
        if label is not None and splits.get(name, split_of(name)) == split
    ]
    if not chosen:
        raise TrainingError(f"No face of {NAMES[dataset]} is in the {split} split: prepare more.")
    return chosen


def _ask_all(
    client: Client, model: str, detector: DetectorChoice, photographs: Sequence[Photograph]
) -> list[FaceEstimate | None]:
    def ask(photograph: Photograph) -> FaceEstimate | None:
        try:
            return most_central_face(client.predict(photograph.path, model=model, detector=detector))
        except BadRequest:
            return None  # an unreadable image counts as one without a face
        except AgeGenderError as error:
            raise TrainingError(f"The service cannot answer for {photograph.name}: {error}") from error

    with ThreadPoolExecutor(_IN_FLIGHT) as threads:
        return list(track(threads.map(ask, photographs), detector, len(photographs), transient=True))


def _outcome(dataset: str, seen: Sequence[tuple[Label, FaceEstimate]]) -> Outcome:
    probability = np.array([face.gender.probability for _, face in seen])
    male = np.array([face.gender.label == "male" for _, face in seen], bool)
    return Outcome(
        dataset,
        distribution=np.zeros((len(seen), 0)),  # the service was not asked for it
        years=np.array([face.age.years for _, face in seen]),
        low=np.array([face.age.low for _, face in seen]),
        high=np.array([face.age.high for _, face in seen]),
        male_probability=np.where(male, probability, 1 - probability),
        age_low=np.array([label.age_low for label, _ in seen], np.int64),
        age_high=np.array([label.age_high for label, _ in seen], np.int64),
        male=np.array([label.male for label, _ in seen], bool),
        race=np.array([label.race for label, _ in seen], np.str_),
    )
