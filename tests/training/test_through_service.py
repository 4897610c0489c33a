from __future__ import annotations

from pathlib import Path

import pytest
from agegender.answers import Age, FaceEstimate, Gender, ImageSize, Prediction, Timings
from agegender.vision.face import Box

pytest.importorskip("fairlearn", reason="the training job's packages are not installed: `make env-train`")


from training.labels import Label
from training.through_service import Photograph, most_central_face, summarise


def estimate(years: float, label: str = "female", box: Box | None = None) -> FaceEstimate:
    return FaceEstimate(
        box=box or Box(0, 0, 10, 10),
        confidence=None,
        landmarks=None,
        roll=None,
        quality=None,
        warnings=[],
        age=Age(years=years, low=years - 5, high=years + 5, coverage=0.8),
        gender=Gender(label=label, probability=0.9),
    )


def test_a_missed_face_is_wrong_in_every_share_and_has_no_age_error() -> None:
    photographs = [Photograph(str(i), Path(), Label(30, 30, male=False, race="White")) for i in range(4)]
    found = [estimate(30), estimate(40), estimate(34, "male"), None]
    table = summarise("utkface", photographs, {"yunet": found, "haar": [None] * 4})
    assert table.columns[:3] == ("detector", "missed", "age MAE, years, of those found")
    yunet, haar = table.rows
    assert yunet[:2] == ("yunet", "1")
    assert yunet[2].startswith(f"{(0 + 10 + 4) / 3:.2f} ")
    assert yunet[3].startswith("50.0 % ")  # within five years: two of four
    assert yunet[4].startswith("50.0 % ")  # gender: two of four
    assert haar[:3] == ("haar", "4", "")
    assert haar[3].startswith("0.0 % ")


def test_of_several_faces_the_one_in_the_middle_is_meant() -> None:
    aside, central = estimate(20, box=Box(0, 0, 120, 120)), estimate(50, box=Box(130, 80, 40, 40))
    answer = Prediction(
        model="tiny",
        detector="haar",
        image=ImageSize(width=300, height=200),
        faces=[aside, central],
        faces_found=2,
        timings_ms=Timings(decode=1, detect=1, predict=1, total=3),
    )
    assert most_central_face(answer) == central
    assert most_central_face(answer.model_copy(update={"faces": []})) is None
