"""The networks alone, one face on one thread, against MobileNetV2 with two heads as Keras builds it."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from agegender.inference.session import OnnxSession, Session
from agegender.vision.align import CROP_SIZE

from benchmarks.bench import Bench
from benchmarks.report import Grid, Report

MOST = {"age_gender_A": 1.5, "age_gender_B": 1.05}
"""How many times as long as the plain network each may take."""

_ROUNDS = 9


def run(bench: Bench) -> Report:
    """Medians over rounds in which the networks take turns, so that a busy moment is all of theirs."""
    grid = Grid("One face, one thread, milliseconds", ("network", "a face", "/ plain MobileNetV2"))
    report = Report("networks", [grid])
    if importlib.util.find_spec("tensorflow") is None:
        report.sentences.append("Left out: TensorFlow is not installed (`make env-train`).")
        return report
    sessions = {"plain MobileNetV2, two heads": _plain()}
    sessions |= {name: bench.catalogue.session(name) for name in MOST}
    spent: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(_ROUNDS):
        for name, session in sessions.items():
            spent[name].append(_milliseconds(session, bench.seconds(0.5)))
    plain = next(iter(spent.values()))
    for name, times in spent.items():
        ratio = statistics.median(own / other for own, other in zip(times, plain, strict=True))
        grid.rows.append((name, statistics.median(times), ratio))
        if name in MOST:
            report.target(f"{name}: time of a face / that of the plain network", ratio, at_most=MOST[name])
    return report


def _milliseconds(session: Session, seconds: float) -> float:
    """The median of as many runs as take so long."""
    crop = np.random.default_rng(0).integers(0, 256, (1, CROP_SIZE, CROP_SIZE, 3), np.uint8)
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        session.run(crop)
        times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times)


def _plain() -> Session:
    import keras

    inputs = keras.Input((CROP_SIZE, CROP_SIZE, 3), dtype="uint8", name="image")
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(keras.ops.cast(inputs, "float32"))
    features = keras.applications.MobileNetV2(input_tensor=scaled, include_top=False, weights=None).output
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    age = keras.layers.Dense(101, activation="softmax", name="age")(pooled)
    gender = keras.layers.Dense(1, activation="sigmoid")(pooled)
    network = keras.Model(inputs, {"age": age, "gender": keras.layers.Reshape((), name="gender")(gender)})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plain.onnx"
        network(np.zeros((1, CROP_SIZE, CROP_SIZE, 3), np.uint8))
        network.export(file, format="onnx", verbose=False)
        return OnnxSession(file)
