"""Figures of the whole service: original images through `POST /predict`, with each detector."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from agegender.vision.face import Box
from rich.progress import track

from training.data import (
    FAIRFACE,
    UTKFACE,
    Faces,
    as_folder,
    distance_from_centre,
    fairface_files,
    utkface_files,
)
from training.errors import TrainingError
from training.evaluate import MEASURES, Figure, Floats, Outcome, figure
from training.labels import Label
from training.plots import NAMES
from training.report import COLUMNS, Grid
from training.splits import split_of

DETECTORS = {UTKFACE: ("none", "yunet", "haar"), FAIRFACE: ("yunet", "haar")}
"""What each data set's images are sent through; FairFace's are no crops, for which `none` would take them."""

_IN_FLIGHT = 4
"""Requests at a time: a service with one worker has room for five."""

_ATTEMPTS = 10
"""How often an image is sent to a service that is busy, until it is given up."""

_YEARS = "age_mae"
_SHARES = ("age_cs5", "gender_accuracy", "right_bin", "right_or_next_bin")
"""What a face that was missed counts against."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """An original image and what is true of the face in it."""

    name: str
    path: Path
    label: Label


@dataclass(frozen=True)
class Through:
    """What came of a data set's images through one detector; figures by the name of their measure."""

    detector: str
    missed: list[str]
    """Names of the images in which it found no face."""
    figures: dict[str, Figure]
    """Over all images, missed ones counted as wrong; the age MAE over those in which it found a face."""
    common: dict[str, Figure]
    """Over the images in which every detector found a face."""
    added_error: Figure | None
    """Age MAE over those, less that of `none`, years; None without `none`."""


@dataclass(frozen=True)
class Measured:
    """What came of the images of one data set's split."""

    dataset: str
    split: str
    images: int
    in_common: int
    """Images in which every detector found a face."""
    through: list[Through]

    def grids(self) -> list[Grid]:
        """Two tables: over all images, and over those in common."""
        name = NAMES[self.dataset]
        keys = [key for key in (_YEARS, *_SHARES) if key in MEASURES[self.dataset]]
        titles = [COLUMNS[key][0] for key in keys]

        def cells(figures: dict[str, Figure]) -> list[str]:
            return [COLUMNS[key][1](figures[key]) if key in figures else "" for key in keys]

        everything = Grid(
            f"{name}: {self.images:,} images of the {self.split} split, a face that was missed counted as wrong",
            ("", "missed", f"{titles[0]}, of those found", *titles[1:]),
            [(part.detector, f"{len(part.missed):,}", *cells(part.figures)) for part in self.through],
        )
        common = Grid(
            f"{name}: the {self.in_common:,} images in which every detector found a face",
            ("", *titles, "MAE less that of none"),
            [(part.detector, *cells(part.common), _difference(part.added_error)) for part in self.through],
        )
        return [everything, common]

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return dataclasses.asdict(self)


def measure(url: str, model: str, dataset: str, originals: Path, faces: Faces, split: str) -> Measured:
    """Send each of a data set's `originals` (archive or folder) in `split` to the service at `url`.

    Raises TrainingError.
    """
    with as_folder(originals) as folder:
        photographs = photographs_of(dataset, folder, faces, split)
        answers = _answers(url, model, DETECTORS[dataset], photographs)
    return summarise(dataset, split, photographs, answers)


def summarise(
    dataset: str,
    split: str,
    photographs: Sequence[Photograph],
    answers: dict[str, list[dict[str, Any] | None]],
) -> Measured:
    """Figures from what each detector's `answers` say of the face in each photograph, None where it found none."""
    values = {detector: _values(dataset, photographs, faces) for detector, faces in answers.items()}
    found = {detector: ~np.isnan(of[_YEARS]) for detector, of in values.items()}
    common = np.logical_and.reduce(list(found.values()))

    def through(detector: str) -> Through:
        of = values[detector]
        missed = [photo.name for photo, seen in zip(photographs, found[detector], strict=True) if not seen]
        figures = _figures({_YEARS: of[_YEARS][found[detector]]})
        figures |= _figures({key: np.nan_to_num(of[key]) for key in _SHARES if key in of})
        added = None
        if "none" in values and common.any():
            added = figure((of[_YEARS] - values["none"][_YEARS])[common])
        return Through(detector, missed, figures, _figures({key: v[common] for key, v in of.items()}), added)

    return Measured(dataset, split, len(photographs), int(common.sum()), [through(name) for name in answers])


def most_central_face(answer: dict[str, Any]) -> dict[str, Any] | None:
    """Of the faces in an answer of `POST /predict` the one that the image is about, as when it was prepared."""
    size = answer["image"]
    return min(
        answer["faces"],
        key=lambda face: distance_from_centre(Box(**face["box"]), size["width"], size["height"]),
        default=None,
    )


@contextlib.contextmanager
def started(models: Path, model: str, yunet: Path | None) -> Iterator[str]:
    """The address of a service for `model` on this machine that runs for the length of a `with` block.

    Raises TrainingError where it does not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [f"--port={port}", f"--models={models}", f"--default-model={model}"]
    options += [] if yunet is None else [f"--yunet-path={yunet}"]
    command = [sys.executable, "-c", "from agegender.cli import main; main()", "serve", *options]
    # Limits and keys that an operator set are not for this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AGEGENDER_")}
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)  # noqa: S603
        try:
            while not _ready(url):
                if process.poll() is not None:
                    log.seek(0)
                    raise TrainingError(f"The service did not start: {_last_error(log.read().decode())}")
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _last_error(log: str) -> str:
    """The first error in a service's log, whose lines are JSON; those after it only follow from it."""
    for line in log.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if entry["level"] == "error":
                return str(entry["message"])
    return "its log says no reason."


def photographs_of(dataset: str, folder: Path, faces: Faces, split: str) -> list[Photograph]:
    """The data set's images in `split`, with those that could not be prepared, no face having been found in them."""
    files = utkface_files(folder) if dataset == UTKFACE else fairface_files(folder)
    of_dataset = faces.dataset == dataset
    splits = dict(zip(faces.name[of_dataset].tolist(), faces.split[of_dataset].tolist(), strict=True))
    chosen = [
        Photograph(name, path, label)
        for name, path, label in files
        if label is not None and splits.get(name, split_of(name)) == split
    ]
    lacking = {name for name, where in splits.items() if where == split} - {photo.name for photo in chosen}
    if lacking:
        raise TrainingError(
            f"{len(lacking)} of the prepared faces of {NAMES[dataset]} are not there, such as {min(lacking)}: "
            "name the archive or folder that was prepared."
        )
    if not chosen:
        raise TrainingError(f"No face of {NAMES[dataset]} is in the {split} split: prepare more.")
    return chosen


def _answers(
    url: str, model: str, detectors: Sequence[str], photographs: Sequence[Photograph]
) -> dict[str, list[dict[str, Any] | None]]:
    answers = {}
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        for detector in detectors:
            threads = ThreadPoolExecutor(_IN_FLIGHT)
            try:
                faces = threads.map(lambda photo: _ask(client, model, detector, photo), photographs)  # noqa: B023
                answers[detector] = list(track(faces, detector, len(photographs), transient=True))
            finally:
                threads.shutdown(cancel_futures=True)
    return answers


def _ask(client: httpx.Client, model: str, detector: str, photograph: Photograph) -> dict[str, Any] | None:
    query = {"model": model, "detector": detector}
    data, headers = photograph.path.read_bytes(), {"Content-Type": "application/octet-stream"}
    for _ in range(_ATTEMPTS):
        try:
            response = client.post("/predict", params=query, content=data, headers=headers)
        except httpx.HTTPError as error:
            raise TrainingError(f"The service at {client.base_url} cannot be asked ({error}).") from error
        if response.status_code not in (429, 503):
            break
        time.sleep(float(response.headers.get("Retry-After", 1)))
    if response.status_code == 400:
        return None  # in what cannot be read there is no face
    if response.status_code != 200:
        raise TrainingError(
            f"The service refused {photograph.name} ({response.status_code}): {response.text}"
        )
    return most_central_face(response.json())


def _values(
    dataset: str, photographs: Sequence[Photograph], faces: Sequence[dict[str, Any] | None]
) -> dict[str, Floats]:
    """What each measure says of each photograph, NaN where no face was found."""
    found = [(photo.label, face) for photo, face in zip(photographs, faces, strict=True) if face is not None]
    labels, seen = [label for label, _ in found], [face for _, face in found]
    probability = np.array([face["gender"]["probability"] for face in seen])
    outcome = Outcome(
        **{key: np.array([face["age"][key] for face in seen], float) for key in ("years", "low", "high")},
        share_below=np.full(len(seen), np.nan),  # no answer tells
        male_probability=np.where(
            [face["gender"]["label"] == "male" for face in seen], probability, 1 - probability
        ),
        age_low=np.array([label.age_low for label in labels], np.int64),
        age_high=np.array([label.age_high for label in labels], np.int64),
        male=np.array([label.male for label in labels], bool),
        race=np.array([label.race for label in labels], np.str_),
    )
    where = np.array([face is not None for face in faces])
    values = {}
    for key, measured_by in MEASURES[dataset].items():
        if key in (_YEARS, *_SHARES):
            values[key] = np.full(len(faces), np.nan)
            values[key][where] = measured_by(outcome)
    return values


def _figures(values: dict[str, Floats]) -> dict[str, Figure]:
    return {key: figure(of) for key, of in values.items() if len(of)}


def _difference(added: Figure | None) -> str:
    return "" if added is None else f"{added.value:+.2f} ({added.low:+.2f} to {added.high:+.2f})"
