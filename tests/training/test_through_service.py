from __future__ import annotations

from pathlib import Path

import pytest
from agegender.answers import Age, FaceEstimate, Gender
from agegender.vision.face import Box

pytest.importorskip("fairlearn", reason="the training job's packages are not installed: `make env-train`")


from training.labels import Label
from training.through_service import Photograph, summarise


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
