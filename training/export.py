"""Write the files of a trained model: `ID.onnx`, which is served, its metadata and card, and `ID.keras`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
from agegender.inference import calibrate
from agegender.inference.metadata import Variant
from agegender.inference.session import OnnxSession
from agegender.vision.align import CROP_SIZE

from training import evaluate
from training.card import write_card
from training.data import NAMES, Faces
from training.errors import TrainingError
from training.evaluate import Outcome
from training.files import write_aside, write_json
from training.networks import with_probabilities
from training.recipe import Recipe
from training.splits import VALIDATION

MAX_DIFFERENCE = 1e-3
"""Largest difference between Keras' and ONNX Runtime's probabilities, on so many real crops:"""
_COMPARED = 256


@dataclass(frozen=True)
class Files:
    """The files of one model."""

    folder: Path
    model_id: str

    def path(self, suffix: str) -> Path:
        """`ID.onnx`, which is served, `ID.json`, `ID.md`, or `ID.keras`; "" is the folder of the card's pictures."""
        return self.folder / f"{self.model_id}{suffix}"

    @property
    def record(self) -> Path:
        """How the model was trained."""
        return self.path("") / "run.json"


def convert(network: keras.Model, side: int, faces: Faces, files: Files) -> None:
    """Write a trained network, which sees crops at `side` pixels, as `ID.keras` and `ID.onnx`, kernels in 16 bits.

    Raises TrainingError if ONNX Runtime and Keras differ by more than `MAX_DIFFERENCE` on real crops.
    """
    weights = network.get_weights()
    network.set_weights([w.astype(np.float16).astype(np.float32) if w.ndim > 1 else w for w in weights])
    model = with_probabilities(network, side)
    rows = faces.indices(VALIDATION)
    crops = faces.crops[rows[:: math.ceil(len(rows) / _COMPARED)]]
    expected = model.predict(crops, batch_size=64, verbose=0)
    files.folder.mkdir(parents=True, exist_ok=True)
    files.path(".json").unlink(missing_ok=True)  # so that metadata never describes another file
    partial = files.folder / f"partial.{files.model_id}.onnx"
    model.export(partial, format="onnx", verbose=False)
    age, male = OnnxSession(partial).run(crops)
    difference = max(
        float(np.abs(age - expected["age"]).max()), float(np.abs(male - expected["gender"]).max())
    )
    if not difference <= MAX_DIFFERENCE:
        partial.unlink()
        raise TrainingError(
            f"ONNX Runtime and Keras differ by {difference:.2g} on real crops: nothing was exported."
        )
    os.replace(partial, files.path(".onnx"))
    model.save(files.path(".keras"))
    _deflate(files.path(".keras"))


def publish(
    recipe: Recipe, files: Files, record: dict[str, Any], faces: Faces, others: list[Faces]
) -> list[Outcome]:
    """Calibrate `ID.onnx` on the validation split, measure it on the test split, and write metadata and card.

    `record` says how it was trained; the faces of `others` are measured too. Raises TrainingError.
    """
    session = OnnxSession(files.path(".onnx"))
    rows = np.flatnonzero((faces.split == VALIDATION) & np.isin(faces.dataset, recipe.datasets))
    if not len(rows):
        raise TrainingError("No face is in the validation split: prepare more.")
    age, male = evaluate.answers(session, faces, rows)
    fitted = calibrate.fit(age, male, faces.age_low[rows], faces.age_high[rows], faces.male[rows])
    unmeasured = Variant.model_validate(
        recipe.words.model_dump(exclude={"use", "origin"})
        | {key: record[key] for key in ("parameters", "trained_on", "created")}
        | dataclasses.asdict(fitted)
        | {
            "id": files.model_id,
            "input_size": CROP_SIZE,
            "sha256": hashlib.sha256(files.path(".onnx").read_bytes()).hexdigest(),
            "metrics": {"age_mae": 0, "gender_accuracy": 0, "n": 1},
        }
    )
    outcomes = [
        outcome for some in (faces, *others) for outcome in evaluate.measure(session, unmeasured, some)
    ]
    variant = Variant.model_validate(unmeasured.model_dump() | {"metrics": evaluate.metrics(outcomes)})
    files.path("").mkdir(exist_ok=True)
    write_json(files.record, record)
    write_card(recipe, variant, record, outcomes, faces, files.path(".md"), files.path(""))
    text = compact_rows(json.dumps(variant.model_dump(mode="json"), indent=2))
    write_aside(files.path(".json"), lambda path: path.write_text(text + "\n"))
    return outcomes


def describe(recipe: Recipe, network: keras.Model, record: dict[str, Any], faces: Faces) -> dict[str, Any]:
    """Add to a run's record what its result is: parameters, faces and date."""
    used = {name: len(faces.indices("train", name)) for name in recipe.datasets}
    return record | {
        "parameters": network.count_params(),
        "trained_on": " and ".join(f"{n:,} faces of {NAMES[name]}" for name, n in used.items()),
        "created": datetime.now(UTC).replace(microsecond=0).isoformat(),
    }


def compact_rows(text: str) -> str:
    """Indented JSON with each innermost list on one line."""
    return re.sub(r"\[\s+([^\[\]{}]+?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)


def _deflate(path: Path) -> None:
    """Compress a `.keras` file, which Keras stores as it is: rounded weights are half zeros."""
    packed = path.with_suffix(".packed")
    with (
        zipfile.ZipFile(path) as stored,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out,
    ):
        for name in stored.namelist():
            out.writestr(name, stored.read(name))
    os.replace(packed, path)
