"""Measure how rotation and poor image quality change the estimates, by degrading images of a split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

import cv2
import numpy as np
from agegender.answers import FaceEstimate
from agegender.inference.ages import certainty, read_ages
from agegender.inference.metadata import Variant
from agegender.inference.pipeline import Pipeline
from agegender.inference.session import OnnxSession
from agegender.inference.yunet import YuNet
from agegender.vision.align import crop_face, roll_of
from agegender.vision.decode import decode
from agegender.vision.face import Box, Face, FaceWarning
from agegender.vision.image import Image
from agegender.vision.quality import assess
from rich.progress import track

from training.data import UTKFACE, distance_from_centre, most_central
from training.evaluate import Table
from training.labels import Label
from training.through_service import Photograph

Altered = tuple[Image, Face | None]
"""A worse image, and the face in it, or None where it is to be found again."""
Alter = Callable[[Image, Face], Altered]

_RIGHT = 30
"""Degrees by which the roll of a face may differ from what it should be."""


def shrunk(side: int) -> Alter:
    """The face has `side` pixels."""

    def alter(image: Image, face: Face) -> Altered:
        scale = side / _side(face)
        if scale >= 1 or face.landmarks is None:
            return image, face
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        points = ((face.landmarks + 0.5) * scale - 0.5).astype(np.float32)
        return np.asarray(small, np.uint8), Face(Box(0, 0, side, side), face.confidence, points)

    return alter


def blurred(share: float) -> Alter:
    """Out of focus by `share` of the face."""
    return lambda image, face: (
        np.asarray(cv2.GaussianBlur(image, (0, 0), share * _side(face)), np.uint8),
        face,
    )


def shaken(share: float) -> Alter:
    """Moved by `share` of the face during the exposure."""
    return lambda image, face: (np.asarray(cv2.blur(image, (round(share * _side(face)), 1)), np.uint8), face)


def exposed(gain: float) -> Alter:
    """So many times the light, and the noise of a camera's sensor."""
    noise = np.random.default_rng(0)

    def alter(image: Image, face: Face) -> Altered:
        return np.clip(image * float(gain) + noise.normal(0, 1.5, image.shape), 0, 255).astype(np.uint8), face

    return alter


def cut(share: float) -> Alter:
    """Without the right part of the image, which has `share` of the face."""

    def alter(image: Image, face: Face) -> Altered:
        return np.ascontiguousarray(image[:, : round(face.box.x + face.box.width * (1 - share))]), face

    return alter


def turned(degrees: float) -> Alter:
    """Rotated clockwise, with the edge pixels repeated."""

    def alter(image: Image, _: Face) -> Altered:
        if degrees % 90 == 0:
            return np.ascontiguousarray(np.rot90(image, -round(degrees) // 90)), None
        height, width = image.shape[:2]
        turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1)
        whole = cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(whole, np.uint8), None

    return alter


CONDITIONS: dict[str, Alter] = {
    **{f"{side} pixels": shrunk(side) for side in (32, 24, 20, 15, 12)},
    **{f"out of focus by {share} of the face": blurred(share) for share in (0.02, 0.03, 0.04)},
    **{f"shaken by {share} of the face": shaken(share) for share in (0.08, 0.14)},
    **{f"{gain} of the light": exposed(gain) for gain in (0.3, 0.15, 0.1)},
    **{f"{gain} times the light": exposed(gain) for gain in (1.5, 2, 3)},
    **{f"{share} of the face cut off": cut(share) for share in (0.2, 0.3, 0.4)},
    **{f"rolled by {degrees} degrees": turned(degrees) for degrees in (15, 30)},
}


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


def measure_turns(
    images: Sequence[tuple[Image, Label]], yunet: YuNet, pipeline: Pipeline, model: str
) -> Table:
    """Measure how many of the faces found upright are answered in the same way when the photograph is turned."""
    rows = {degrees: np.zeros(4) for degrees in (0, 90, 180, 270, 45, -45)}
    for image, _label in track(images, "turns"):
        upright = most_central(yunet.find(image, 0.6).faces(image), image)
        if upright is None or upright.landmarks is None:
            continue
        before = _central(pipeline, image, model)
        for degrees, row in rows.items():
            photograph, _ = turned(degrees)(image, upright)
            found = most_central(yunet.detect(photograph), photograph)
            row[0] += 1
            if found is None or found.landmarks is None:
                continue
            off = (roll_of(found.landmarks) - roll_of(upright.landmarks) - degrees + 180) % 360 - 180
            row[1] += abs(off) < _RIGHT
            row[2] += abs(off) >= 45
            after = _central(pipeline, photograph, model)
            if before is not None and after is not None:
                same = after.gender.label == before.gender.label
                row[3] += same and abs(after.age.years - before.age.years) <= 1.5
    return Table(
        "Faces that are found upright, in turned photographs",
        (
            "degrees",
            "faces",
            "roll right",
            "roll wrong by 45 degrees or more",
            "same gender, age within 1.5 years",
        ),
        [
            (f"{degrees}", f"{row[0]:.0f}", *(f"{part / row[0]:.2%}" for part in row[1:]))
            for degrees, row in rows.items()
        ],
    )


def measure_warnings(
    images: Sequence[tuple[Image, Label]],
    yunet: YuNet,
    session: OnnxSession,
    variant: Variant,
    every: int = 8,
) -> list[Table]:
    """Measure by how much the age error rises for faces with each warning, and under each condition.

    Originals with a warning are compared with those without any; one in `every` is degraded and compared with itself.
    """
    worse: dict[str, list[tuple[str, set[FaceWarning], float, float]]] = {name: [] for name in CONDITIONS}
    originals: list[tuple[set[FaceWarning], float]] = []
    scores: list[float] = []
    for number, (image, label) in enumerate(track(images, "warnings")):
        face = most_central(yunet.detect(image), image)
        if face is None:
            continue
        first, before, score = _assess(image, face, session, variant, label)
        originals.append((first, before))
        scores.append(score)
        for name, alter in CONDITIONS.items() if number % every == 0 else ():
            altered, where = alter(image, face)
            found = where or most_central(yunet.detect(altered), altered)
            if found is not None:
                raised, after, _ = _assess(altered, found, session, variant, label)
                worse[name].append((name, raised - first, after, before))
    errors = np.array([error for _, error in originals])
    plain = np.array([not raised for raised, _ in originals])
    made = [one for parts in worse.values() for one in parts]
    rows: list[tuple[str, ...]] = []
    for warning in get_args(FaceWarning):
        own = errors[[warning in raised for raised, _ in originals]]
        parts = [(after, before) for _, raised, after, before in made if warning in raised]
        ratio = f"{np.mean(own) / errors[plain].mean():.2f}" if len(own) else ""
        rows.append((warning, f"{len(own):,}", ratio, f"{len(parts):,}", _ratio(parts)))
    rows.append(("any", f"{(~plain).sum():,}", f"{errors[~plain].mean() / errors[plain].mean():.2f}", "", ""))
    columns = (
        "",
        "originals",
        "times the error of those without any",
        "made worse",
        "times the error before",
    )
    tenth = np.quantile(scores, 0.1)
    by_warning = 1 - errors[plain].mean() / errors.mean()
    by_score = 1 - errors[np.array(scores) > tenth].mean() / errors.mean()
    title = (
        f"Age error of {len(errors):,} originals; {by_warning:.1%} less without those that have a warning, "
        f"{by_score:.1%} less without the tenth of lowest score, up to {tenth:.2f}"
    )
    conditions: list[tuple[str, ...]] = [
        (
            name,
            f"{np.mean([bool(raised) for _, raised, _, _ in parts]):.0%}",
            _ratio([(after, before) for *_, after, before in parts]),
        )
        for name, parts in worse.items()
        if parts
    ]
    return [
        Table(title, columns, rows),
        Table("Originals made worse", ("", "with a new warning", "times the error"), conditions),
    ]


def _ratio(errors: Sequence[tuple[float, float]]) -> str:
    return f"{sum(after for after, _ in errors) / sum(before for _, before in errors):.2f}" if errors else ""


def _assess(
    image: Image, face: Face, session: OnnxSession, variant: Variant, label: Label
) -> tuple[set[FaceWarning], float, float]:
    """The warnings of a face, years from the estimate to its label, which may be a range, and its score."""
    crop = crop_face(image, face)
    distribution, _ = session.run(crop[np.newaxis])
    ages = read_ages(distribution, variant.age_estimate, variant.age_interval)
    years, score = float(ages.years[0]), float(certainty(ages, variant.age_interval)[0])
    _, raised = assess(face, crop, image, score)
    return set(raised), max(0.0, label.age_low - years, years - label.age_high), score


def _central(pipeline: Pipeline, image: Image, model: str) -> FaceEstimate | None:
    size = {"width": image.shape[1], "height": image.shape[0]}
    answer = pipeline.predict(image, model=model, detector="yunet")
    return min(answer.faces, key=lambda face: distance_from_centre(face.box, **size), default=None)


def _side(face: Face) -> int:
    return min(face.box.width, face.box.height)
