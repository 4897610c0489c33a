"""Check what predictions and the service need, for `agegender doctor`.

Packages are imported one by one, so that a broken one is reported like any other problem.
"""

from __future__ import annotations

import errno
import importlib
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from agegender.cores import available_cores
from agegender.inference import detector_file
from agegender.inference.detector_file import DetectorFileError
from agegender.settings import Settings

# Packages, and their modules.
_PACKAGES = {
    **{name: name for name in ("numpy", "onnxruntime", "pydantic", "fastapi", "uvicorn", "httpx")},
    "opencv-python-headless": "cv2",
}
_OF_TRACES = {"opentelemetry-exporter-otlp-proto-http": "opentelemetry.exporter.otlp.proto.http"}


class Finding(NamedTuple):
    """The result of a check. A `note` is a suggestion; what is `wrong` prevents predictions or the service."""

    state: Literal["ok", "note", "wrong"]
    text: str
    """What was found and, unless the state is ok, what to do."""


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield a finding for each check."""
    yield Finding("ok", f"agegender {version('agegender')} in {Path(__file__).parents[1]}")
    yield Finding("ok", f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    packages = list(_packages(settings.traces))
    yield from packages
    yield _workers(settings)
    if _any_wrong(packages):  # the other checks need them
        return
    files = [*_models(settings), _yunet(settings)]
    yield from files
    if not _any_wrong(files):
        yield _prediction(settings)
    yield from _ports(settings)


def _any_wrong(findings: list[Finding]) -> bool:
    return any(finding.state == "wrong" for finding in findings)


def _packages(traces: bool) -> Iterator[Finding]:
    found = []
    for package, module in (_PACKAGES | (_OF_TRACES if traces else {})).items():
        try:
            importlib.import_module(module)
            found.append(f"{package} {version(package)}")
        except Exception as error:  # a broken package may raise anything
            command = f"python -m pip install --force-reinstall {package}"
            yield Finding("wrong", f"{package} cannot be imported ({error}): reinstall it with `{command}`.")
    yield Finding("ok", ", ".join(found))


def _workers(settings: Settings) -> Finding:
    cores = available_cores()
    text = f"{cores} cores, {settings.workers} workers of one thread each"
    if settings.workers > cores:
        return Finding("note", f"{text}: set AGEGENDER_WORKERS to {cores}, or leave it unset.")
    return Finding("ok", text)


def _models(settings: Settings) -> Iterator[Finding]:
    from agegender.inference.variants import ModelsInvalid, UnknownModel, load_catalogue

    try:
        catalogue = load_catalogue(settings.models)
        default = catalogue.default(settings.default_model)
    except (ModelsInvalid, UnknownModel) as error:
        yield Finding("wrong", str(error))
        return
    for model in catalogue:
        name = model.variant.id + (" (the default)" if model.variant.id == default else "")
        yield Finding("ok", f"model {name} in {settings.models.absolute()} is intact and runs")


def _yunet(settings: Settings) -> Finding:
    try:
        file = detector_file.find(settings.yunet_path)
    except DetectorFileError as error:
        return Finding("wrong", str(error))
    if file is None:
        return Finding(
            "note",
            "YuNet, the better detector, is not installed, so Haar is used: run `agegender fetch-detector`.",
        )
    return Finding("ok", f"YuNet in {file} is intact")


def _prediction(settings: Settings) -> Finding:
    from agegender.predictor import Predictor

    # Without a face: detection takes as long as in a photograph.
    rows, columns = np.mgrid[:480, :640]
    pixels = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=2).astype(np.uint8)
    try:
        predictor = Predictor(settings)
        predictor.predict(pixels, channels="BGR")  # the first time is slow
        answer = predictor.predict(pixels, channels="BGR")
    except Exception as error:
        return Finding("wrong", f"A prediction fails ({error}): reinstall this package.")
    ms = answer.timings_ms.total
    return Finding("ok", f"a prediction with detector {answer.detector} takes {ms:.0f} ms")


def _ports(settings: Settings) -> Iterator[Finding]:
    from agegender.server import CannotListen, bind

    for setting, port in ("port", settings.port), ("metrics_port", settings.metrics_port):
        if not port:  # unset, or 0 for any free one
            continue
        try:
            for bound in bind(settings.host, port, setting):
                bound.close()
        except CannotListen as error:
            taken = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
            if taken:
                yield Finding("note", f"{error} If this service uses it, all is well.")
            else:
                yield Finding("wrong", str(error))
        else:
            yield Finding("ok", f"port {port} on {settings.host} is free")
