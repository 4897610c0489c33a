"""What each step from file to answer costs on one thread, with nothing around it: what the bounds are made of."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import cv2
import numpy as np
from agegender.answers import DetectorName
from agegender.inference.ages import read_ages
from agegender.inference.pipeline import Pipeline
from agegender.inference.variants import Catalogue
from agegender.inference.yunet import YuNet
from agegender.vision.align import crop_face
from agegender.vision.decode import decode
from agegender.vision.detect import Haar
from numpy.typing import NDArray

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
    """The parts of a request for `photo`, on this thread; by default with what the service takes by default.

    In the order of a request, pass after pass: a part that is repeated by itself has all that it needs in the cache,
    and takes a fifth less than ever in a service.
    """
    cv2.setNumThreads(1)  # as in a worker
    detector = detector or bench.detectors[0]
    yunet = None if bench.yunet is None else YuNet(bench.yunet)
    finder = Haar() if detector == "haar" or yunet is None else yunet
    prediction = Pipeline(bench.catalogue, yunet=yunet).predict(
        photo.jpeg, model=models[0], detector=detector, max_faces=100
    )
    times: dict[str, list[float]] = defaultdict(list)

    def timed(step: str, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = work()
        times[step].append(1000 * (time.perf_counter() - started))
        return result

    begun = time.perf_counter()
    while len(times["encode"]) < 6 or time.perf_counter() - begun < bench.seconds(0.5):
        image = timed("decode", partial(decode, photo.jpeg))
        faces = timed("detect", partial(finder.detect, image))
        crops = timed("align", lambda: [crop_face(image, face) for face in faces])  # noqa: B023
        for model in models:
            timed(model, partial(_read, bench.catalogue, model, crops))
        timed("encode", lambda: prediction.model_dump_json())
    cost = {step: statistics.median(passes[1:]) for step, passes in times.items()}  # the first one is slow
    running = {model: cost[model] for model in models}
    return Parts(len(faces), cost["decode"], cost["detect"], cost["align"], running, cost["encode"])


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


def _read(catalogue: Catalogue, model: str, crops: list[NDArray[np.uint8]]) -> None:
    variant = catalogue[model].variant
    ages, _ = catalogue.session(model).run(np.stack(crops))
    read_ages(ages, variant.age_estimate, variant.age_interval)
