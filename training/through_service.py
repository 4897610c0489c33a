"""Measure the whole service: original images through `POST /predict`, with each detector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from agegender import Client
from agegender.answers import DetectorChoice, FaceEstimate
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
from training.evaluate import COLUMNS, MEASURES, Outcome, Table, figure, write
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


def measure(url: str, model: str, dataset: str, originals: Sequence[Path], faces: Faces) -> Table:
    """Send the test images of a data set, `originals` (archives or folders), to the service at `url`.

    Raises TrainingError.
    """
    with photographs_of(dataset, originals, faces, TEST) as photographs, Client(url) as client:
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
        seen = [
            (photo.label, face) for photo, face in zip(photographs, found, strict=True) if face is not None
        ]
        missed = np.zeros(len(found) - len(seen))
        outcome = outcome_of(dataset, [label for label, _ in seen], [_numbers(face) for _, face in seen])
        values = {key: MEASURES[dataset][key](outcome) for key in ("age_mae", *shares)}
        cells = [write("age_mae", figure(values["age_mae"]))] if seen else [""]
        cells += [write(key, figure(np.append(values[key], missed))) for key in shares]
        rows.append((detector, f"{len(missed):,}", *cells))
    columns = (
        "detector",
        "missed",
        f"{COLUMNS['age_mae']}, of those found",
        *(COLUMNS[key] for key in shares),
    )
    return Table(f"{NAMES[dataset]}: {len(photographs):,} test images through the service", columns, rows)


@contextmanager
def photographs_of(
    dataset: str, originals: Sequence[Path], faces: Faces, split: str
) -> Iterator[list[Photograph]]:
    """The data set's images in `split`, with those that could not be prepared, no face having been found in them.

    Raises TrainingError if there are none in the archives or folders `originals`.
    """
    of_dataset = faces.dataset == dataset
    splits = dict(zip(faces.name[of_dataset].tolist(), faces.split[of_dataset].tolist(), strict=True))
    files: list[tuple[str, Path, Label | None]] = []
    with ExitStack() as stack:
        for path in originals:
            folder = stack.enter_context(as_folder(path))
            files += utkface_files(folder) if dataset == UTKFACE else fairface_files(folder, "train")
        chosen = [
            Photograph(name, path, label)
            for name, path, label in files
            if label is not None and splits.get(name, split_of(name)) == split
        ]
        if not chosen:
            raise TrainingError(f"No face of {NAMES[dataset]} is in the {split} split: prepare more.")
        yield chosen


def _ask_all(
    client: Client, model: str, detector: DetectorChoice, photographs: Sequence[Photograph]
) -> list[FaceEstimate | None]:
    def ask(photograph: Photograph) -> FaceEstimate | None:
        try:
            answer = client.predict(photograph.path, model=model, detector=detector)
        except BadRequest:
            return None  # an unreadable image counts as one without a face
        except AgeGenderError as error:
            raise TrainingError(f"The service cannot answer for {photograph.name}: {error}") from error
        size = answer.image
        return min(
            answer.faces,
            key=lambda face: distance_from_centre(face.box, size.width, size.height),
            default=None,
        )

    with ThreadPoolExecutor(_IN_FLIGHT) as threads:
        return list(track(threads.map(ask, photographs), detector, len(photographs), transient=True))


def _numbers(face: FaceEstimate) -> tuple[float, float, float, float]:
    probability = face.gender.probability if face.gender.label == "male" else 1 - face.gender.probability
    return face.age.years, face.age.low, face.age.high, probability


def outcome_of(
    dataset: str, labels: Sequence[Label], answers: Sequence[tuple[float, float, float, float]]
) -> Outcome:
    """Answers without a distribution: for each label the age, the ends of its interval and the probability of male."""
    years, low, high, male_probability = np.array(answers, np.float64).reshape(-1, 4).T
    return Outcome(
        dataset,
        distribution=np.zeros((len(labels), 0)),
        years=years,
        low=low,
        high=high,
        male_probability=male_probability,
        age_low=np.array([label.age_low for label in labels], np.int64),
        age_high=np.array([label.age_high for label in labels], np.int64),
        male=np.array([label.male for label in labels], bool),
        race=np.array([label.race for label in labels], np.str_),
    )
