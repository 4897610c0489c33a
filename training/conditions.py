"""Measure how poor image quality and turned photographs change the estimates, by degrading images of a split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, get_args

import cv2
import numpy as np
from agegender.inference.ages import certainty, read_ages
from agegender.inference.variants import Model
from agegender.inference.yunet import YuNet
from agegender.vision.align import crop_face, roll_of
from agegender.vision.decode import decode
from agegender.vision.face import Box, Face, FaceWarning
from agegender.vision.image import Image
from agegender.vision.quality import assess
from rich.progress import track

from training.data import UTKFACE, most_central
from training.evaluate import Table
from training.labels import Label
from training.through_service import Photograph

Altered = tuple[Image, Face | None]
"""A worse image, and the face in it, or None where it is to be found again."""

_EVERY = 8
"""Of so many originals one is degraded, in each way."""


def _shrink(image: Image, face: Face, side: int) -> Altered:
    """Make the face have `side` pixels."""
    scale = side / _side(face)
    if scale >= 1 or face.landmarks is None:
        return image, face
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    points = ((face.landmarks + 0.5) * scale - 0.5).astype(np.float32)
    return np.asarray(small, np.uint8), Face(Box(0, 0, side, side), face.confidence, points)


def _defocus(image: Image, face: Face, share: float) -> Altered:
    """Blur by `share` of the face."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), share * _side(face)), np.uint8), face


def _shake(image: Image, face: Face, share: float) -> Altered:
    """Move the camera by `share` of the face during the exposure."""
    return np.asarray(cv2.blur(image, (round(share * _side(face)), 1)), np.uint8), face


def _expose(image: Image, face: Face, gain: float) -> Altered:
    """So many times the light, and the noise of a camera's sensor."""
    noise = np.random.default_rng(0).normal(0, 1.5, image.shape)
    return np.clip(image * float(gain) + noise, 0, 255).astype(np.uint8), face


def _cut(image: Image, face: Face, share: float) -> Altered:
    """Take away the right part of the image, which has `share` of the face."""
    return np.ascontiguousarray(image[:, : round(face.box.x + face.box.width * (1 - share))]), face


def _roll(image: Image, _: Face, degrees: float) -> Altered:
    """Rotate clockwise, with the edge pixels repeated."""
    height, width = image.shape[:2]
    if degrees % 90 == 0:
        return np.ascontiguousarray(np.rot90(image, -round(degrees) // 90)), None
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1)
    return np.asarray(cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)), None


CONDITIONS: list[Callable[[Image, Face], Altered]] = [
    *(partial(_shrink, side=side) for side in (32, 24, 20, 15, 12)),
    *(partial(_defocus, share=share) for share in (0.02, 0.03, 0.04)),
    *(partial(_shake, share=share) for share in (0.08, 0.14)),
    *(partial(_expose, gain=gain) for gain in (0.3, 0.15, 0.1, 1.5, 2, 3)),
    *(partial(_cut, share=share) for share in (0.2, 0.3, 0.4)),
    *(partial(_roll, degrees=degrees) for degrees in (15, 30)),
]


def read(photographs: Sequence[Photograph], dataset: str, count: int) -> list[tuple[Image, Label]]:
    """`count` of them at even distances. UTKFace's chips get a blurred border, as they are all face."""
    chosen = photographs[:: max(1, len(photographs) // count)][:count]
    pairs = [(decode(photograph.path.read_bytes()), photograph.label) for photograph in chosen]
    return [(_with_room(image) if dataset == UTKFACE else image, label) for image, label in pairs]


def _with_room(image: Image) -> Image:
    room = image.shape[0] // 2
    around = cv2.copyMakeBorder(image, room, room, room, room, cv2.BORDER_REPLICATE)
    around = cv2.blur(around, (31, 31))
    around[room:-room, room:-room] = image
    return np.asarray(around, np.uint8)


class _Reading(NamedTuple):
    warnings: set[FaceWarning]
    error: float
    """Years from the estimate to the label, which may be a range."""
    score: float


class _Worse(NamedTuple):
    warnings: set[FaceWarning]
    """Those that the original has not."""
    error: float
    error_before: float


def measure(images: Sequence[tuple[Image, Label]], yunet: YuNet, model: Model) -> Table:
    """Measure by how much the age error rises for faces with each warning.

    Originals with a warning are compared with those without any; degraded ones with themselves.
    """
    originals: list[_Reading] = []
    worse: list[_Worse] = []
    for number, (image, label) in enumerate(track(images, "warnings")):
        face = most_central(yunet.detect(image), image)
        if face is None:
            continue
        original = _read(image, face, model, label)
        originals.append(original)
        for alter in CONDITIONS if number % _EVERY == 0 else ():
            altered, where = alter(image, face)
            found = where or most_central(yunet.detect(altered), altered)
            if found is not None:
                after = _read(altered, found, model, label)
                worse.append(_Worse(after.warnings - original.warnings, after.error, original.error))
    errors = np.array([original.error for original in originals])
    scores = np.array([original.score for original in originals])
    plain = np.array([not original.warnings for original in originals])
    rows: list[tuple[str, ...]] = []
    for warning in get_args(FaceWarning):
        own = errors[[warning in original.warnings for original in originals]]
        made = [part for part in worse if warning in part.warnings]
        ratio = f"{own.mean() / errors[plain].mean():.2f}" if len(own) else ""
        rows.append((warning, f"{len(own):,}", ratio, f"{len(made):,}", _ratio(made) if made else ""))
    rows.append(("any", f"{(~plain).sum():,}", f"{errors[~plain].mean() / errors[plain].mean():.2f}", "", ""))
    times = "times the error of those without any"
    columns = ("", "originals", times, "made worse", "times the error before")
    tenth = np.quantile(scores, 0.1)
    title = (
        f"Age error of {len(errors):,} originals; {1 - errors[plain].mean() / errors.mean():.1%} less without those "
        f"that have a warning, {1 - errors[scores > tenth].mean() / errors.mean():.1%} less without the tenth of "
        f"lowest score, up to {tenth:.2f}"
    )
    return Table(title, columns, rows)


def measure_turns(images: Sequence[tuple[Image, Label]], yunet: YuNet, model: Model) -> Table:
    """Count the faces found upright that are found, and answered, as before when their photograph is turned."""
    rows = {degrees: np.zeros(4) for degrees in (0, 90, 180, 270, 45, -45)}
    for image, _ in track(images, "turns"):
        upright = most_central(yunet.find(image, 0.6).faces(image), image)
        before = _answer(image, yunet, model)
        if upright is None or upright.landmarks is None or before is None:
            continue
        for degrees, row in rows.items():
            after = _answer(_roll(image, upright, degrees)[0], yunet, model)
            row[0] += 1
            if after is not None:
                off = abs((after.roll - roll_of(upright.landmarks) - degrees + 180) % 360 - 180)
                same = after.male == before.male and abs(after.years - before.years) <= 1.5
                row[1:] += off < 30, off >= 45, same
    columns = ("degrees", "faces", "roll right", "wrong by 45 or more", "same gender, age within 1.5 years")
    return Table(
        "Faces that are found upright, in turned photographs",
        columns,
        [
            (f"{degrees}", f"{row[0]:.0f}", *(f"{part / row[0]:.1%}" for part in row[1:]))
            for degrees, row in rows.items()
        ],
    )


class _Answer(NamedTuple):
    roll: float
    years: float
    male: bool


def _answer(image: Image, yunet: YuNet, model: Model) -> _Answer | None:
    face = most_central(yunet.detect(image), image)
    if face is None or face.landmarks is None:
        return None
    distribution, male = model.session.run(crop_face(image, face)[np.newaxis])
    years = read_ages(distribution, model.variant.age_estimate, model.variant.age_interval).years
    return _Answer(roll_of(face.landmarks), float(years[0]), bool(male[0] > 0.5))


def _ratio(made: Sequence[_Worse]) -> str:
    return f"{sum(part.error for part in made) / sum(part.error_before for part in made):.2f}"


def _read(image: Image, face: Face, model: Model, label: Label) -> _Reading:
    crop = crop_face(image, face)
    distribution, _ = model.session.run(crop[np.newaxis])
    ages = read_ages(distribution, model.variant.age_estimate, model.variant.age_interval)
    years, score = float(ages.years[0]), float(certainty(ages, model.variant.age_interval)[0])
    _, raised = assess(face, crop, image, score)
    return _Reading(set(raised), max(0.0, label.age_low - years, years - label.age_high), score)


def _side(face: Face) -> int:
    return min(face.box.width, face.box.height)
