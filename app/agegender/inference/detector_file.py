"""YuNet's file, which is downloaded once into the user's cache and never shipped."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import httpx
from platformdirs import user_cache_path

# Of a fixed revision, so that the digest stays right.
YUNET_URL = (
    "https://media.githubusercontent.com/media/opencv/opencv_zoo/47534e27c9851bb1128ccc0102f1145e27f23f98/"
    "models/face_detection_yunet/face_detection_yunet_2023mar.onnx"
)
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"


class DetectorFileError(Exception):
    """YuNet's file is wrong, or cannot be downloaded or stored; str(e) is one line for the operator."""


def cached_path() -> Path:
    """Return the path of the file in the user's cache folder."""
    return user_cache_path("agegender") / "face_detection_yunet_2023mar.onnx"


def find(path: Path | None = None) -> Path | None:
    """Return the path of YuNet's file: `path` if given, else the cached one, or None if there is none.

    Raises DetectorFileError if `path` is missing, or if the file is not the published one.
    """
    found = cached_path() if path is None else path
    if path is None and not found.exists():
        return None
    _checked(_read(found), str(found))
    return found


def fetch(source: Path | None = None) -> Path:
    """Put the published file into the user's cache folder, from the internet or from `source`.

    The file appears whole or not at all. Returns its path; raises DetectorFileError.
    """
    data = _download() if source is None else _read(source)
    _checked(data, "What was downloaded" if source is None else str(source))
    target = cached_path()
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(data)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise DetectorFileError(f"{target} cannot be written ({error.strerror}).") from error
    return target


def _download() -> bytes:
    try:
        return httpx.get(YUNET_URL, follow_redirects=True, timeout=10).raise_for_status().content
    except httpx.HTTPStatusError as error:
        reason = f"it answered {error.response.status_code}"
    except httpx.HTTPError:
        reason = "it cannot be reached from here"
    raise DetectorFileError(
        f"YuNet could not be downloaded from {YUNET_URL}: {reason}; the service uses Haar, "
        "and `agegender fetch-detector --from PATH` takes a file that you already have."
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DetectorFileError(
            f"YuNet's file {path} cannot be read ({error.strerror}): check its path and rights."
        ) from error


def _checked(data: bytes, name: str) -> None:
    if hashlib.sha256(data).hexdigest() != YUNET_SHA256:
        raise DetectorFileError(
            f"{name} is not the published YuNet (its SHA-256 differs) and was refused: "
            "run `agegender fetch-detector`."
        )
