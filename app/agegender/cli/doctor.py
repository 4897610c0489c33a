"""Check what predictions and the service need, for `agegender doctor`.

Packages are imported one by one, so that a broken one is reported like any other problem.
"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

import httpx
import numpy as np

from agegender.answers import DetectorChoice
from agegender.cores import available_cores
from agegender.inference import detector_file
from agegender.inference.detector_file import DetectorFileError
from agegender.settings import Settings

# Modules and their packages.
_PACKAGES = {
    "numpy": "numpy",
    "cv2": "opencv-python-headless",
    "onnxruntime": "onnxruntime",
    "pydantic": "pydantic",
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "httpx": "httpx",
}


class Finding(NamedTuple):
    """The result of a check. A `note` is a suggestion; what is `wrong` prevents predictions or the service."""

    state: Literal["ok", "note", "wrong"]
    text: str
    """What was found and, unless the state is ok, what to do."""


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield a finding for each check."""
    yield Finding("ok", f"agegender {version('agegender')} in {Path(__file__).parents[1]}")
    yield Finding("ok", f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    packages = list(_packages())
    yield from packages
    if settings.traces:
        yield _traces()
    yield _workers(settings)
    if _any_wrong(packages):  # the other checks need them
        return
    files = [*_models(settings), _yunet(settings)]
    yield from files
    if not _any_wrong(files):
        yield from _predictions(settings)
    yield from _ports(settings)


def _any_wrong(findings: list[Finding]) -> bool:
    return any(finding.state == "wrong" for finding in findings)


def _packages() -> Iterator[Finding]:
    found = []
    for module, package in _PACKAGES.items():
        try:
            found.append(f"{package} {importlib.import_module(module).__version__}")
        except Exception as error:  # a broken package may raise anything
            command = f"python -m pip install --force-reinstall {package}"
            yield Finding("wrong", f"{package} cannot be imported ({error}): reinstall it with `{command}`.")
    yield Finding("ok", ", ".join(found))


def _traces() -> Finding:
    try:
        importlib.import_module("opentelemetry.sdk.trace")
        importlib.import_module("opentelemetry.exporter.otlp.proto.http")
    except ImportError:
        return Finding(
            "wrong",
            "AGEGENDER_TRACES is set, but OpenTelemetry is not installed: install `agegender[traces]`, or unset it.",
        )
    return Finding("ok", "OpenTelemetry, for traces")


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


def _predictions(settings: Settings) -> Iterator[Finding]:
    from agegender.predictor import Predictor

    predictor = Predictor(settings)
    photograph = _pattern()
    choices: tuple[DetectorChoice, ...] = ("auto", "haar", "none")
    done = set()
    for choice in choices:
        try:
            predictor.predict(photograph, detector=choice)  # the first time is slow
            prediction = predictor.predict(photograph, detector=choice)
        except Exception as error:
            yield Finding(
                "wrong", f"A prediction with detector {choice} fails ({error}): reinstall this package."
            )
            continue
        if prediction.detector in done:  # auto stands for one of the others
            continue
        done.add(prediction.detector)
        ms = prediction.timings_ms
        yield Finding(
            "ok",
            f"a prediction with detector {prediction.detector} takes {ms.total:.0f} ms (decode {ms.decode:.1f}, "
            f"detect {ms.detect:.1f}, predict {ms.predict:.1f})",
        )


def _pattern() -> bytes:
    """Return a JPEG of 640x480 pixels without a face, in which detection takes as long as in a photograph."""
    import cv2

    rows, columns = np.mgrid[:480, :640]
    pixels = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=2).astype(np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def _ports(settings: Settings) -> Iterator[Finding]:
    from agegender.server import CannotListen, bind

    own = {
        "port": (settings.port, "/health/ready", '"ready"', "this service, which is ready"),
        "metrics_port": (settings.metrics_port, "/metrics", "agegender_build_info", "this service's metrics"),
    }
    for setting, (port, path, expected, user) in own.items():
        if not port:  # unset, or 0 for any free one
            continue
        try:
            for bound in bind(settings.host, port, setting):
                bound.close()
        except CannotListen as error:
            if expected in _get(settings.host, port, path):
                yield Finding("ok", f"port {port} on {settings.host} is in use by {user}")
            else:
                yield Finding("wrong", str(error))
        else:
            yield Finding("ok", f"port {port} on {settings.host} is free")


def _get(host: str, port: int, path: str) -> str:
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    authority = f"[{here}]:{port}" if ":" in here else f"{here}:{port}"
    try:
        # Without a proxy, which could not reach this machine at these addresses.
        with httpx.Client(trust_env=False, timeout=2) as http:
            return http.get(f"http://{authority}{path}").text
    except httpx.HTTPError:
        return ""
