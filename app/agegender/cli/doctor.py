"""What `agegender doctor` looks at: all that must be right before photographs can be read or the service can start.

Packages are imported here one by one, so that one that is broken is a finding and not the end.
"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import httpx
import numpy as np

from agegender.answers import DetectorChoice
from agegender.cores import available_cores
from agegender.inference import detector_file
from agegender.inference.detector_file import DetectorFileError
from agegender.inputs import Photograph
from agegender.settings import Settings

# As they are imported, and as they are installed.
_PACKAGES = {
    "numpy": "numpy",
    "cv2": "opencv-python-headless",
    "onnxruntime": "onnxruntime",
    "pydantic": "pydantic",
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "httpx": "httpx",
}
_TRAINING = ("tensorflow", "keras", "onnx", "tf2onnx", "matplotlib")
_EXAMPLE = Path(__file__).parents[3] / "examples" / "astronaut.jpg"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: it is right, could be better, or keeps something from working."""

    state: Literal["ok", "note", "wrong"]
    text: str
    """Says what to do, unless it is right."""


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at one thing after the other."""
    yield _ok(f"agegender {version('agegender')} in {Path(__file__).parents[1]}")
    yield _ok(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    usable = True
    for finding in _packages():
        usable &= finding.state != "wrong"
        yield finding
    yield _training()
    if settings.traces:
        yield _traces()
    yield from _cores(settings)
    if not usable:  # all else needs them
        return
    models = list(_models(settings))
    detectors = list(_detectors(settings))
    yield from models + detectors
    if all(finding.state != "wrong" for finding in models + detectors):
        yield from _predictions(settings)
    yield from _ports(settings)


def _ok(text: str) -> Finding:
    return Finding("ok", text)


def _note(text: str) -> Finding:
    return Finding("note", text)


def _wrong(text: str) -> Finding:
    return Finding("wrong", text)


def _packages() -> Iterator[Finding]:
    found = []
    for module, package in _PACKAGES.items():
        try:
            found.append(f"{package} {importlib.import_module(module).__version__}")
        except Exception as error:  # whatever a broken package ends with
            yield _wrong(
                f"{package} cannot be imported ({error}): install it anew by "
                f"`python -m pip install --force-reinstall {package}`."
            )
    yield _ok(", ".join(found))


def _training() -> Finding:
    missing = [module for module in _TRAINING if find_spec(module) is None]
    if not missing:
        return _ok(f"Keras {version('keras')}, TensorFlow and all else that training needs")
    return _note(
        f"No {', '.join(missing)}, which only training needs: `make env-train` installs that, or "
        "`python -m pip install 'agegender[train]'`."
    )


def _traces() -> Finding:
    try:
        importlib.import_module("opentelemetry.sdk.trace")
        importlib.import_module("opentelemetry.exporter.otlp.proto.http")
    except ImportError:
        return _wrong(
            "Traces are on, but OpenTelemetry is not installed: install this package with its extra `traces`, or unset "
            "AGEGENDER_TRACES."
        )
    return _ok("OpenTelemetry, for traces")


def _cores(settings: Settings) -> Iterator[Finding]:
    cores = available_cores()
    text = f"{cores} cores; the service has {settings.workers} workers of one thread each"
    if settings.workers > cores:
        yield _note(f"{text}, more than it may use: set AGEGENDER_WORKERS to {cores}, or leave it unset.")
    else:
        yield _ok(f"{text}.")


def _models(settings: Settings) -> Iterator[Finding]:
    from agegender.inference.variants import ModelsInvalid, load_catalogue

    try:
        catalogue = load_catalogue(settings.models)
    except ModelsInvalid as error:
        yield _wrong(str(error))
        return
    found = {model.variant.id: model for model in catalogue}
    for name, model in found.items():
        if model.unavailable is None:
            what = "the default model" if name == settings.default_model else "model"
            yield _ok(f"{what} {name} in {settings.models.absolute()} is whole and runs.")
        else:
            yield _note(f"model {name} cannot run here: {model.unavailable}. Export it, or remove it.")
    default = found.get(settings.default_model)
    if default is None or default.session is None:
        yield _wrong(
            f"The default model {settings.default_model} is none that runs: put it into {settings.models.absolute()}, "
            "or name another by AGEGENDER_DEFAULT_MODEL."
        )


def _detectors(settings: Settings) -> Iterator[Finding]:
    try:
        file = detector_file.find(settings.yunet_path)
    except DetectorFileError as error:
        yield _wrong(str(error))
        return
    if file is None:
        yield _note(
            "YuNet, the better detector, is not installed, and Haar finds the faces: run `agegender fetch-detector`."
        )
    else:
        yield _ok(f"YuNet in {file} is the published one.")


def _predictions(settings: Settings) -> Iterator[Finding]:
    from agegender.predictor import Predictor

    predictor = Predictor(settings)
    photograph: Photograph = _EXAMPLE if _EXAMPLE.exists() else _drawn()
    what = _EXAMPLE.name if _EXAMPLE.exists() else "a drawn image"
    choices: tuple[DetectorChoice, ...] = ("auto", "haar", "none")
    seen = set()
    for choice in choices:
        try:
            predictor.predict(photograph, channels="BGR", detector=choice)  # the first time is slow
            answer = predictor.predict(photograph, channels="BGR", detector=choice)
        except Exception as error:  # whatever it is, it is what was looked for
            yield _wrong(f"A prediction with detector {choice} fails ({error}): install this package anew.")
            continue
        if answer.detector in seen:  # auto was that one
            continue
        seen.add(answer.detector)
        ms = answer.timings_ms
        faces = "1 face" if len(answer.faces) == 1 else f"{len(answer.faces)} faces"
        yield _ok(
            f"{what} by {answer.detector}: {faces} in {ms.total:.0f} ms (decode {ms.decode:.1f}, "
            f"detect {ms.detect:.1f}, predict {ms.predict:.1f})."
        )


def _drawn() -> Photograph:
    """(480, 640, 3): no face that a detector would find, but as much work."""
    rows, columns = np.mgrid[:480, :640]
    return np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=2).astype(np.uint8)


def _ports(settings: Settings) -> Iterator[Finding]:
    from agegender.server import CannotListen, bind

    for setting, port in (("port", settings.port), ("metrics_port", settings.metrics_port)):
        if not port:  # none, or any
            continue
        try:
            for bound in bind(settings.host, port, setting):
                bound.close()
        except CannotListen as error:
            if setting == "port" and _serves(settings.host, port):
                yield _ok(f"port {port} on {settings.host} is in use by this service, which is ready.")
            elif setting == "metrics_port" and _shows_metrics(settings.host, port):
                yield _ok(f"port {port} on {settings.host} is in use by this service's metrics.")
            else:
                yield _wrong(str(error))
        else:
            yield _ok(f"port {port} on {settings.host} is free.")


def _serves(host: str, port: int) -> bool:
    try:
        return _get(host, port, "/health/ready").text == '{"status":"ready"}'
    except httpx.HTTPError:
        return False


def _shows_metrics(host: str, port: int) -> bool:
    try:
        return "agegender_build_info" in _get(host, port, "/metrics").text
    except httpx.HTTPError:
        return False


def _get(host: str, port: int, path: str) -> httpx.Response:
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    authority = f"[{here}]:{port}" if ":" in here else f"{here}:{port}"
    # No proxy knows this machine by these addresses.
    with httpx.Client(trust_env=False, timeout=2) as http:
        return http.get(f"http://{authority}{path}")
