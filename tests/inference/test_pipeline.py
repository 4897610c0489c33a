from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from agegender.answers import FaceEstimate
from agegender.inference.pipeline import Pipeline
from agegender.inference.variants import load_catalogue
from helpers import grey, png
from tiny_models import NORMAL_INTERVAL, put_model


def test_the_answer_is_read_as_the_metadata_say(tmp_path: Path) -> None:
    wide = {**NORMAL_INTERVAL, "low": [[2.0]] * 5, "high": [[3.0]] * 5}
    put_model(tmp_path, "plain")
    put_model(tmp_path, "wide", age_interval=wide)
    put_model(tmp_path, "median", age_estimate="median")
    put_model(tmp_path, "soft", gender_temperature=2)
    one = Pipeline(load_catalogue(tmp_path), yunet=None)

    def face(model: str, level: int) -> FaceEstimate:
        return one.predict(png(grey(level)), model=model, detector="none").faces[0]

    plain, wider = face("plain", 128).age, face("wide", 128).age
    assert wider.years == plain.years
    assert wider.years - wider.low == pytest.approx(2 * (plain.years - plain.low), abs=0.2)
    assert wider.high - wider.years == pytest.approx(3 * (plain.high - plain.years), abs=0.3)
    # At level 1 the tiny model's bell of 2 years is cut off at age 0, so that its mean lies above its median.
    assert face("plain", 1).age.years > face("median", 1).age.years + 0.1
    # One level below the middle the logit is -0.5; halved, the probability of female is 1 / (1 + exp(-0.25)).
    assert face("plain", 127).gender.probability == pytest.approx(0.6225, abs=1e-3)
    assert face("soft", 127).gender.probability == pytest.approx(0.5622, abs=1e-3)


def test_the_distribution_is_calibrated_as_the_interval_is(tmp_path: Path) -> None:
    factors = [[0.6], [2.0], [2.5], [3.0], [4.0]]
    put_model(tmp_path, "wide", age_interval={**NORMAL_INTERVAL, "low": factors, "high": factors})
    wide = Pipeline(load_catalogue(tmp_path), yunet=None)
    for coverage in (0.5, 0.8, 0.9, 0.95, 0.99):
        (face,) = wide.predict(
            png(grey(128)), model="wide", detector="none", coverage=coverage, distribution=True
        ).faces
        below = np.interp(
            [face.age.low, face.age.high], np.arange(102) - 0.5, [0, *np.cumsum(face.age.distribution)]
        )
        assert below == pytest.approx(
            [(1 - coverage) / 2, (1 + coverage) / 2], abs=0.02
        )  # within whole years
