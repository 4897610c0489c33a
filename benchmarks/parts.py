"""What each step from file to answer costs on one thread, with nothing around it: what the bounds are made of."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from app.api.schemas import PredictionAnswer
from app.inference.ages import expectation, quantiles
from app.inference.predictor import DetectorName, Predictor
from app.inference.session import Session
from app.inference.yunet import YuNet
from app.vision.align import crop_face
from app.vision.decode import decode
from app.vision.detect import Haar
from benchmarks.bench import DEFAULT_MODEL, Bench
from benchmarks.photographs import FACES, SIZES, Photograph, photograph
from benchmarks.report import Grid, Report

MODELS = ("age_gender_A", "age_gender_B")

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """Medians, milliseconds; `found` faces were aligned and run, by each model of `run`."""

    found: int
    decode: float
    detect: float
    align: float
    run: dict[str, float]
    encode: float

    def sum(self, model: str = DEFAULT_MODEL) -> float:
        """All that a request needs."""
        return self.decode + self.detect + self.align + self.run[model] + self.encode


def measure(
    bench: Bench,
    photo: Photograph,
    detector: DetectorName | None = None,
    models: tuple[str, ...] = (DEFAULT_MODEL,),
) -> Parts:
    """The parts of a request for `photo`, on this thread; by default with what the service takes by default."""
    cv2.setNumThreads(1)  # as in a worker
    detector = detector or bench.detectors[0]
    yunet = None if bench.yunet is None else YuNet(bench.yunet)
    finder = Haar() if detector == "haar" or yunet is None else yunet
    image, decoding = _median(bench, lambda: decode(photo.jpeg))
    faces, detecting = _median(bench, lambda: finder.detect(image))
    crops, aligning = _median(bench, lambda: [crop_face(image, face) for face in faces])
    running = {}
    for model in models:
        session, interval = bench.catalogue.session(model), bench.catalogue[model].variant.age_interval
        levels = (interval.low_quantile, interval.high_quantile)
        running[model] = _median(bench, partial(_read, session, crops, levels))[1]
    predictor = Predictor(bench.catalogue, yunet=yunet)
    prediction = predictor.predict(photo.jpeg, model=models[0], detector=detector, max_faces=100)
    encoding = _median(bench, lambda: PredictionAnswer.of(prediction).model_dump_json())[1]
    return Parts(len(faces), decoding, detecting, aligning, running, encoding)


def run(bench: Bench) -> Report:
    """Every photograph, detector and model."""
    columns = ("photograph", "detector", "found", "decode", "detect", "align", "run A", "run B", "encode")
    grid = Grid("Parts of a request, one thread, medians in milliseconds", (*columns, "sum A", "sum B"))
    for width, height in SIZES:
        for faces in FACES:
            photo = photograph(width, height, faces)
            for detector in bench.detectors:
                cost = measure(bench, photo, detector, MODELS)
                running, sums = [cost.run[model] for model in MODELS], [cost.sum(model) for model in MODELS]
                steps = (cost.found, cost.decode, cost.detect, cost.align, *running, cost.encode)
                grid.rows.append((photo.name, detector, *steps, *sums))
    return Report("parts", [grid])


def _read(session: Session, crops: list[NDArray[np.uint8]], levels: tuple[float, float]) -> None:
    ages, _ = session.run(np.stack(crops))
    expectation(ages)
    quantiles(ages, levels)


def _median(bench: Bench, work: Callable[[], T]) -> tuple[T, float]:
    """What `work` returns, and the median of its milliseconds."""
    result = work()  # the first time is slow
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begun < bench.seconds(0.1):
        started = time.perf_counter()
        result = work()
        times.append(1000 * (time.perf_counter() - started))
    return result, statistics.median(times)
