"""Find the files that `agegender predict` is given, predict them in bounded memory, and draw the faces into copies."""

from __future__ import annotations

import errno
import glob
import itertools
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import cv2
import httpx

from agegender.ahead import ahead
from agegender.answers import FaceEstimate, Prediction
from agegender.client import AgeGenderError, Client, TimedOut
from agegender.cores import available_cores
from agegender.inputs import SUFFIXES, Options
from agegender.predictor import (
    DetectorFileError,
    DetectorUnavailable,
    ImageTooLarge,
    ImageUnreadable,
    ModelsInvalid,
    Predictor,
    UnknownModel,
)
from agegender.settings import Settings
from agegender.vision.decode import decode
from agegender.vision.image import Image

STDIN = "-"
_ANNOTATED = ".annotated.jpg"

# Few enough for a service with one worker, which processes one request while four wait.
_REQUESTS_AT_A_TIME = 4
# Files in progress per thread: more than one, so that a slow file does not hold up the others.
_AHEAD = 4
# Statuses that may concern one image only: go on with the next one.
_STATUSES_OF_ONE_IMAGE = (400, 413, 429, 500, 503)
_DOWNLOAD_SECONDS = 60

_COLOUR = (200, 80, 0)  # dark blue, BGR; its contrast with white is 7 to 1
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class CannotAnnotate(Exception):
    """Annotated photographs cannot be written; str(e) says why in a sentence."""


class FileProblem(Exception):
    """One file cannot be read or annotated; str(e) says why in a sentence."""


CANNOT_GO_ON = (
    AgeGenderError,
    CannotAnnotate,
    DetectorFileError,
    DetectorUnavailable,
    ModelsInvalid,
    UnknownModel,
)
"""Errors that end the command, unless they concern one image only; str(e) is a sentence."""


@dataclass(frozen=True, slots=True)
class File:
    """A file or an address to read or, with `problem`, a name without a file."""

    name: str
    annotated: str = ""
    """Path of its annotated copy in the folder of annotated copies."""
    problem: str | None = None

    @property
    def is_address(self) -> bool:
        """Whether it is read over HTTP."""
        return self.name.lower().startswith(("http://", "https://"))

    def read(self, max_bytes: int) -> bytes:
        """Return its bytes, at most `max_bytes` from an address. Raises OSError or FileProblem."""
        if self.name == STDIN:
            return sys.stdin.buffer.read()
        return _download(self.name, max_bytes) if self.is_address else Path(self.name).read_bytes()


class Result(NamedTuple):
    """The name of a file and its prediction, or a sentence that says what is wrong."""

    name: str
    outcome: Prediction | str


Predict = Callable[[bytes], Prediction]


def find_files(names: Iterable[str]) -> tuple[list[File], dict[str, Counter[str]]]:
    """List the files that `names` stand for, in order, and count what is left out of folders, by name and kind.

    A name is a file, a folder including its subfolders, a pattern, an http(s) address, or `-` for standard input.
    """
    files: list[File] = []
    left_out: dict[str, Counter[str]] = {}
    for name in names:
        if name == STDIN:
            files.append(File(name, "stdin" + _ANNOTATED))
        elif File(name).is_address:
            files.append(_at_address(name))
        else:
            found, kinds = _on_disk(name)
            files += found
            left_out[name] = kinds
    return files, left_out


def _at_address(name: str) -> File:
    try:
        path = urlsplit(name).path
    except ValueError as error:  # brackets around what is no IPv6 address
        return File(name, problem=f"The address cannot be read ({error}).")
    return File(name, (Path(path).stem or "photograph") + _ANNOTATED)


def _on_disk(name: str) -> tuple[Iterable[File], Counter[str]]:
    """Return the files of a path or a pattern, each of them once, and how many of each kind are left out."""
    if os.path.lexists(name) or not glob.has_magic(name):
        matches = [name]
        base = Path(name) if os.path.isdir(name) else Path(name).parent
    else:
        matches = sorted(glob.glob(name, recursive=True))
        if not matches:
            return [File(name, problem="No file matches this pattern.")], Counter()
        # The folder that all matches are in.
        base = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(name).parts))
    files: dict[str, File] = {}
    left_out: dict[str, str] = {}
    failed: list[OSError] = []

    def add(path: str) -> None:
        normal = os.path.normpath(path)
        annotated = os.path.splitext(os.path.relpath(normal, base))[0] + _ANNOTATED
        files.setdefault(normal, File(path, annotated))

    for match in matches:
        if not os.path.isdir(match):
            add(match)
            continue
        for where, folders, names in os.walk(match, onerror=failed.append):
            hidden = {each for each in folders if each.startswith(".")}
            folders[:] = sorted(set(folders) - hidden)
            for each in (*hidden, *sorted(names)):
                path = str(Path(where, each))
                if kind := _kind_left_out(each):
                    left_out[path] = kind
                else:
                    add(path)
    found = [
        *files.values(),
        *(File(error.filename, problem=f"The folder cannot be read ({error.strerror}).") for error in failed),
    ]
    return found or [File(name, problem="The folder contains no image file.")], Counter(left_out.values())


def _kind_left_out(name: str) -> str | None:
    """Return why a file or folder inside a folder is not read, or None if it is."""
    if name.startswith("."):
        return "hidden"
    if name.endswith(_ANNOTATED):
        return "annotated"
    return None if name.lower().endswith(SUFFIXES) else Path(name).suffix.lower() or "without a suffix"


def _download(address: str, max_bytes: int) -> bytes:
    deadline = time.monotonic() + _DOWNLOAD_SECONDS
    data = bytearray()
    try:
        with httpx.stream(
            "GET", address, follow_redirects=True, timeout=30, headers={"User-Agent": "agegender"}
        ) as response:
            if not response.is_success:
                raise FileProblem(f"The server answered {response.status_code} {response.reason_phrase}.")
            for part in response.iter_bytes():
                data += part
                if len(data) > max_bytes:
                    raise FileProblem(
                        f"The file is larger than {max_bytes} bytes: use a smaller one, or raise AGEGENDER_MAX_BYTES."
                    )
                if time.monotonic() > deadline:
                    raise FileProblem(f"The download took more than {_DOWNLOAD_SECONDS} seconds.")
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        reason = str(error) or type(error).__name__
        raise FileProblem(f"The address cannot be read ({reason.rstrip('.')}).") from error
    return bytes(data)


@contextmanager
def predicting(
    settings: Settings, options: Options, url: str | None = None, api_key: str | None = None
) -> Iterator[tuple[Predict, int]]:
    """Provide a function that predicts, here or by the service at `url`, and the number of threads to call it on.

    Raises CANNOT_GO_ON.
    """
    if url is None:
        yield partial(Predictor(settings).predict, **options), available_cores()
    else:
        with Client(url, api_key=api_key) as client:
            yield partial(client.predict, **options), _REQUESTS_AT_A_TIME


def results(
    files: Sequence[File],
    predict: Predict,
    threads: int,
    settings: Settings,
    annotate_into: Path | None = None,
) -> Iterator[Result]:
    """Yield a result for each of `files`, in order, and write annotated photographs into `annotate_into`.

    Reads a few files per thread ahead of the results. Raises CANNOT_GO_ON.
    """
    if annotate_into is not None:
        _check_names(files)

    def work(file: File) -> Result:
        return Result(file.name, file.problem or _outcome(file, predict, settings, annotate_into))

    pool = ThreadPoolExecutor(threads)
    try:
        yield from ahead(pool, work, files, _AHEAD * threads)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a thread may be waiting for a service


def _outcome(
    file: File, predict: Predict, settings: Settings, annotate_into: Path | None
) -> Prediction | str:
    try:
        data = file.read(settings.max_bytes)
        prediction = predict(data)
        if annotate_into is not None:
            drawn = annotate(decode(data, settings.max_image_memory), prediction.faces)
            _write(drawn, annotate_into, file.annotated)
    except OSError as error:
        return f"The file cannot be read ({error.strerror})."
    except (FileProblem, ImageUnreadable, ImageTooLarge, TimedOut) as error:
        return str(error)
    except AgeGenderError as error:
        if error.problem is None or error.problem.status not in _STATUSES_OF_ONE_IMAGE:
            raise
        return str(error)
    return prediction


def _write(drawn: Image, folder: Path, name: str) -> None:
    """Write an annotated photograph. Raises FileProblem or CannotAnnotate."""
    encoded, jpeg = cv2.imencode(".jpg", drawn)
    if not encoded:
        raise FileProblem("It cannot be annotated: it has more pixels a side than a JPEG may have.")
    path = folder / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg.tobytes())
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # the other names may be shorter
            raise FileProblem("It cannot be annotated: the name of the copy would be too long.") from error
        raise CannotAnnotate(
            f"Annotated photographs cannot be written into {folder} ({error.strerror})."
        ) from error


def _check_names(files: Iterable[File]) -> None:
    taken: dict[str, str] = {}
    for file in files:
        if file.problem is None and taken.setdefault(file.annotated, file.name) != file.name:
            raise CannotAnnotate(
                f"The annotated photographs of {taken[file.annotated]} and {file.name} would have the same name, "
                f"{file.annotated}: annotate them into different folders."
            )


def annotate(image: Image, faces: Sequence[FaceEstimate]) -> Image:
    """Return a copy of `image`, (height, width, 3) BGR, with a box, the age and the gender of each face."""
    drawn = image.copy()
    line = max(2, round(max(image.shape[:2]) / 350))
    for face in faces:
        box, age, gender = face.box, face.age, face.gender
        cv2.rectangle(drawn, (box.x, box.y), (box.x + box.width, box.y + box.height), _COLOUR, line)
        text = f"{gender.label} {gender.probability:.0%}, {age.years:.0f} ({age.low:.0f}-{age.high:.0f})"
        _label(drawn, text, box.x, box.y, line)
    return drawn


def _label(image: Image, text: str, x: int, y: int, line: int) -> None:
    """Write `text` above (x, y), moved as far as needed to stay inside the image."""
    scale = line / 3 + 0.15
    (width, height), below = cv2.getTextSize(text, _FONT, scale, line)
    width, height = width + 2 * below, height + 2 * below
    x = max(0, min(x, image.shape[1] - width))
    y = max(height, y)
    cv2.rectangle(image, (x, y - height), (x + width, y), _COLOUR, cv2.FILLED)
    cv2.putText(
        image, text, (x + below, y - below), _FONT, scale, (255, 255, 255), max(1, line // 2), cv2.LINE_AA
    )
