"""Find the files that `agegender predict` is given, and predict them in bounded memory."""

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
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import cv2
import httpx

from agegender.ahead import ahead
from agegender.answers import Prediction
from agegender.cli.annotate import annotate
from agegender.client import AgeGenderError, Client, TimedOut, Unreachable
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
from agegender.vision.haar import CascadeMissing

STDIN = "-"
_KINDS_LISTED = 8
_ANNOTATED = ".annotated.jpg"
_MAX_JPEG_SIDE = 65_500
"""Pixels, the limit of libjpeg."""

# Few enough for a service with one worker, which processes one request while four wait.
_REQUESTS_AT_A_TIME = 4
# Files in progress per thread: more than one, so that a slow file does not hold up the others.
_AHEAD = 4
# Statuses that may concern one image only: go on with the next one.
_STATUSES_OF_ONE_IMAGE = (400, 413, 429, 500, 503)
_DOWNLOAD_SECONDS = 60


class CannotAnnotate(Exception):
    """Annotated photographs cannot be written; str(e) says why in a sentence."""


class FileProblem(Exception):
    """One file cannot be read or annotated; str(e) says why in a sentence."""


CANNOT_GO_ON = (
    AgeGenderError,
    CannotAnnotate,
    CascadeMissing,
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


class LeftOut(NamedTuple):
    """The files of a folder that are not read; `why` counts them by reason."""

    folder: str
    why: str


class Result(NamedTuple):
    """The name of a file and its prediction, or a sentence that says what is wrong."""

    name: str
    outcome: Prediction | str


Predict = Callable[[bytes], Prediction]


def find_files(names: Iterable[str]) -> tuple[list[File], list[LeftOut]]:
    """List the files that `names` stand for, in order, and what is left out of folders.

    A name is a file, a folder including its subfolders, a pattern, an http(s) address, or `-` for standard input.
    """
    found = [each for name in names for each in _found(name)]
    files = [each for each in found if isinstance(each, File)]
    return files, [each for each in found if isinstance(each, LeftOut)]


def _found(name: str) -> Iterator[File | LeftOut]:
    if name == STDIN:
        yield File(name, "stdin" + _ANNOTATED)
    elif File(name).is_address:
        yield File(name, (Path(urlsplit(name).path).stem or "photograph") + _ANNOTATED)
    elif os.path.isdir(name):
        yield from _in_folder(name)
    elif os.path.lexists(name) or not _is_pattern(name):
        yield File(name, Path(name).stem + _ANNOTATED)
    else:
        yield from _matching(name)


def _is_pattern(text: str) -> bool:
    return any(letter in text for letter in "*?[")


def _matching(pattern: str) -> Iterator[File | LeftOut]:
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        yield File(pattern, problem="No file matches this pattern.")
    # The folder that all matches are in.
    base = Path(*itertools.takewhile(lambda part: not _is_pattern(part), Path(pattern).parts))
    # A pattern may match a folder as well as files and folders in it: list each of them once.
    files: set[str] = set()
    folders: set[str] = set()
    for found in (each for match in matches for each in _found(match)):
        if isinstance(found, LeftOut):
            if folders.isdisjoint({found.folder, *map(str, Path(found.folder).parents)}):
                folders.add(str(Path(found.folder)))
                yield found
        elif (path := os.path.normpath(found.name)) not in files:
            files.add(path)
            annotated = Path(os.path.relpath(path, base)).with_suffix(_ANNOTATED)
            yield found if found.problem else replace(found, annotated=str(annotated))


def _in_folder(folder: str) -> Iterator[File | LeftOut]:
    failed: list[OSError] = []
    read = hidden = annotated = 0
    others: Counter[str] = Counter()
    for where, folders, names in os.walk(folder, onerror=failed.append):
        hidden += sum(name.startswith(".") for name in folders)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                hidden += 1
            elif name.endswith(_ANNOTATED):
                annotated += 1
            elif name.lower().endswith(SUFFIXES):
                read += 1
                path = Path(where, name)
                yield File(str(path), str(path.relative_to(folder).with_suffix(_ANNOTATED)))
            else:
                others[Path(name).suffix.lower() or "without a suffix"] += 1
    for error in failed:
        yield File(str(error.filename), problem=f"The folder cannot be read ({error.strerror}).")
    if not read and not failed:
        yield File(folder, problem="The folder contains no image file.")
    if why := _left_out(others, hidden, annotated):
        yield LeftOut(folder, why)


def _left_out(others: Counter[str], hidden: int, annotated: int) -> str:
    reasons = []
    if others:
        listed = others.most_common(_KINDS_LISTED)
        kinds = [f"{count} {kind}" for kind, count in listed]
        if more := others.total() - sum(count for _, count in listed):
            kinds.append(f"{more} more")
        reasons.append(f"not an image format: {', '.join(kinds)}")
    if hidden:
        reasons.append(f"hidden: {hidden}")
    if annotated:
        reasons.append(f"annotated copies: {annotated}")
    return "; ".join(reasons)


@cache
def _http() -> httpx.Client:
    return httpx.Client(
        follow_redirects=True, max_redirects=5, timeout=30, headers={"User-Agent": "agegender (httpx)"}
    )


def _download(address: str, max_bytes: int) -> bytes:
    deadline = time.monotonic() + _DOWNLOAD_SECONDS
    data = bytearray()
    try:
        with _http().stream("GET", address) as response:
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
        if isinstance(error, Unreachable) or error.problem is None:
            raise
        if error.problem.status not in _STATUSES_OF_ONE_IMAGE:
            raise
        return str(error)
    return prediction


def _write(drawn: cv2.typing.MatLike, folder: Path, name: str) -> None:
    """Write an annotated photograph. Raises FileProblem or CannotAnnotate."""
    if max(drawn.shape) > _MAX_JPEG_SIDE:
        raise FileProblem(f"It cannot be annotated: a JPEG has at most {_MAX_JPEG_SIDE} pixels a side.")
    path = folder / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".jpg", drawn)[1].tobytes())
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise FileProblem(f"It cannot be annotated: the name {name} is too long.") from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            path.unlink(missing_ok=True)  # half written
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
