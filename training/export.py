"""A trained run to what is served: `ID.onnx` with metadata and card, held to the network by a check on real crops."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import keras
import numpy as np
from agegender.inference.gender import temper
from agegender.inference.session import OnnxSession
from agegender.inference.variants import Variant
from agegender.vision.align import CROP_SIZE
from numpy.typing import NDArray

from training import calibrate, evaluate, fit, report
from training.architectures import with_probabilities
from training.data import UTKFACE, Faces
from training.errors import TrainingError
from training.splits import VALIDATION

MAX_DIFFERENCE = 1e-3
"""Largest difference between Keras' and ONNX Runtime's probabilities on real crops."""

_COMPARED = 256
"""How many real crops are compared."""

_WORDS = {
    "A": {
        "title": "A: residual network from scratch",
        "architecture": "Residual CNN with squeeze-and-excitation, two heads",
        "description": "A small network of this project's own, trained from random weights.",
    },
    "B": {
        "title": "B: MobileNetV2",
        "architecture": "MobileNetV2 1.0, two heads",
        "description": "MobileNetV2, all of it fine-tuned from its ImageNet weights.",
    },
}


def calibrated(run: Path, faces: Faces) -> tuple[keras.Model, evaluate.Calibrated]:
    """The best network of `run`, and its calibration on UTKFace's validation split. Raises TrainingError."""
    record, _ = fit.load_record(run)
    if record["data_sha256"] != faces.digest():
        # Other splits could put faces that it was trained on among those that it is measured on.
        raise TrainingError(
            f"{run} was trained on other faces than are prepared: prepare those, or train anew."
        )
    network = fit.load_best(run)
    _round_kernels(network)
    rows = faces.indices(VALIDATION, UTKFACE)
    logits = fit.predict_logits(network, faces, rows, fit.Config.of_record(record).side)
    age, gender = fit.softmax(logits["age"]), 1 / (1 + np.exp(-logits["gender"].astype(np.float64)))
    chosen = calibrate.fit(age, gender, faces.age_low[rows], faces.age_high[rows], faces.male[rows])

    def read(temperature: float) -> evaluate.Outcome:
        male = temper(gender, temperature)
        return evaluate.read(age, male, chosen.age_estimate, chosen.age_interval, faces, rows)

    return network, evaluate.Calibrated(chosen, read(1.0), read(chosen.gender_temperature))


def export(model_id: str, run: Path, faces: Faces, models: Path) -> list[evaluate.Measured]:
    """Calibrate, convert and measure the best network of `run`, and write all of `models/ID*`.

    Raises TrainingError, and then leaves what there was.
    """
    record, history = fit.load_record(run)
    if model_id != f"age_gender_{record['variant']}":
        raise TrainingError(f"{run} holds a run of variant {record['variant']}, which is not {model_id}.")
    network, calibration = calibrated(run, faces)
    aside = models / f".{model_id}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        side = fit.Config.of_record(record).side
        model = with_probabilities(network, calibration.chosen.gender_temperature, side)
        model.save(aside / f"{model_id}.keras")
        _deflate(aside / f"{model_id}.keras")
        onnx_file = aside / f"{model_id}.onnx"
        rows = faces.indices(VALIDATION)
        some = rows[:: math.ceil(len(rows) / _COMPARED)]
        difference = convert(model, onnx_file, faces.crops[some])

        chosen = calibration.chosen
        measured = evaluate.measure(OnnxSession(onnx_file), chosen.age_estimate, chosen.age_interval, faces)
        variant = Variant.model_validate(
            {
                **_WORDS[record["variant"]],
                "id": model_id,
                "input_size": CROP_SIZE,
                "parameters": network.count_params(),
                "sha256": hashlib.sha256(onnx_file.read_bytes()).hexdigest(),
                "trained_on": report.trained_on(faces),
                "licence": "For non-commercial research only, as UTKFace is",
                "created": datetime.now(UTC).replace(microsecond=0),
                "metrics": report.metrics(measured),
                "age_estimate": chosen.age_estimate,
                "age_interval": chosen.age_interval,
            }
        )
        card = report.Card(variant, record, history, calibration, measured, faces, len(some), difference)
        card.write(aside)
        evaluate.store(measured, aside / model_id)
        (aside / f"{model_id}.json").write_text(variant.model_dump_json(indent=2) + "\n")

        publish(model_id, aside, models)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return measured


def publish(model_id: str, aside: Path, models: Path) -> None:
    """Move all of a model from the folder `aside` to `models`.

    `ID.json` comes last, and an older one goes before anything that it describes is replaced: whenever this is
    killed, there is none that describes another file.
    """
    (models / f"{model_id}.json").unlink(missing_ok=True)
    shutil.rmtree(models / model_id, ignore_errors=True)
    for suffix in ("", ".md", ".keras", ".onnx", ".json"):
        os.replace(aside / f"{model_id}{suffix}", models / f"{model_id}{suffix}")


def convert(model: keras.Model, path: Path, crops: NDArray[np.uint8]) -> float:
    """Write `model` (see `with_probabilities`) to the ONNX file `path`.

    Returns the largest difference between their probabilities on `crops` (n, 128, 128, 3). Raises TrainingError
    where it exceeds `MAX_DIFFERENCE`.
    """
    expected = model.predict(crops, batch_size=64, verbose=0)  # Keras exports only what has been called
    model.export(path, format="onnx", verbose=False)
    age, gender = OnnxSession(path).run(crops)
    difference = max(
        float(np.abs(age - expected["age"]).max()), float(np.abs(gender - expected["gender"]).max())
    )
    if not difference <= MAX_DIFFERENCE:
        raise TrainingError(
            f"ONNX Runtime and Keras differ by {difference:.2g} on real crops, more than {MAX_DIFFERENCE:g}: "
            "nothing was exported."
        )
    return difference


def _round_kernels(network: keras.Model) -> None:
    """Round what is multiplied to 16-bit floats, all that the file needs to hold; statistics keep their range."""
    weights = network.get_weights()
    network.set_weights([w.astype(np.float16).astype(np.float32) if w.ndim > 1 else w for w in weights])


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
