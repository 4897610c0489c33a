"""Photographs in files, one or ten thousand: which there are, and an answer for each, in bounded memory."""

from __future__ import annotations

import errno
import glob
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2

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
    ModelUnavailable,
    Predictor,
    UnknownModel,
)
from agegender.settings import Settings
from agegender.vision.decode import decode
from agegender.vision.detect import CascadeMissing

STDIN = "-"

# As many as any service has places for: one worker and four requests that wait for it.
_REQUESTS_AT_A_TIME = 4
_AHEAD = 4
"""Files begun, per thread, before the first of them is done: else one that takes long would hold up the rest."""

_ANNOTATED = ".annotated.jpg"
_MAX_JPEG_SIDE = 65_500
"""libjpeg's own bound."""


class CannotAnnotate(Exception):
    """Where the pictures would go is no place for them; str(e) is a sentence that says why."""


# With these, a service answers for one image, and may accept the others: 400 and 413 for its content.
_STATUSES_OF_ONE_IMAGE = (400, 413, 429, 500, 503)

CANNOT_GO_ON = (
    AgeGenderError,
    CannotAnnotate,
    CascadeMissing,
    DetectorFileError,
    DetectorUnavailable,
    ModelUnavailable,
    ModelsInvalid,
    UnknownModel,
)
"""What stops the command, unless it concerns one image only; each is a sentence."""


@dataclass(frozen=True, slots=True)
class File:
    """A file to be read; or a name for which there is none, and why."""

    name: str
    annotated: str = ""
    """Path of its annotated picture, in the folder for those."""
    problem: str | None = None

    def read(self) -> bytes:
        """Its bytes. Raises OSError."""
        return sys.stdin.buffer.read() if self.name == STDIN else Path(self.name).read_bytes()


class Result(NamedTuple):
    """The name of a file with the answer for it, or with what is wrong with it in a sentence."""

    name: str
    said: Prediction | str


Ask = Callable[[bytes], Prediction]


def find_files(names: Iterable[str]) -> list[File]:
    """The files that are named, in that order: files, folders with all that is in them, patterns, `-` for stdin."""
    return [file for name in names for file in _found(name)]


def _found(name: str) -> Iterator[File]:
    if name == STDIN:
        yield File(name, "stdin" + _ANNOTATED)
    elif os.path.isdir(name):
        yield from _in_folder(name)
    elif os.path.lexists(name) or not any(letter in name for letter in "*?["):
        yield File(name, Path(name).stem + _ANNOTATED)
    else:
        matches = sorted(glob.glob(name, recursive=True))  # as in a shell that was not asked for it
        # A match may be a folder whose files match too.
        files = {os.path.normpath(file.name): file for match in matches for file in _found(match)}
        below = _below(name)
        for path, file in files.items():
            if file.problem is None:
                file = replace(
                    file, annotated=str(Path(os.path.relpath(path, below)).with_suffix(_ANNOTATED))
                )
            yield file
        if not matches:
            yield File(name, problem="No file has a name of this pattern.")


def _below(pattern: str) -> Path:
    """The folder in which all matches of a pattern are."""
    return Path(
        *itertools.takewhile(lambda part: not any(letter in part for letter in "*?["), Path(pattern).parts)
    )


def _in_folder(folder: str) -> Iterator[File]:
    failed: list[OSError] = []
    found = False
    for where, folders, names in os.walk(folder, onerror=failed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith(".") and not name.endswith(_ANNOTATED):
                path = Path(where, name)
                found = True
                yield File(str(path), str(path.relative_to(folder).with_suffix(_ANNOTATED)))
    for error in failed:
        yield File(str(error.filename), problem=f"The folder cannot be read ({error.strerror}).")
    if not found and not failed:
        yield File(folder, problem="The folder holds no JPEG, PNG, WebP, BMP or AVIF file.")


@contextmanager
def asking(
    settings: Settings, options: Options, url: str | None = None, api_key: str | None = None
) -> Iterator[tuple[Ask, int]]:
    """What answers for the bytes of a file, and on how many threads: this process, or the service at `url`.

    Raises one of CANNOT_GO_ON.
    """
    if url is None:
        yield partial(Predictor(settings).predict, **options), available_cores()
    else:
        with Client(url, api_key=api_key) as client:
            yield partial(client.predict, **options), _REQUESTS_AT_A_TIME


def answers(
    files: Sequence[File], ask: Ask, threads: int, annotate_into: Path | None = None, max_pixels: int = 0
) -> Iterator[Result]:
    """One result for each of the files, in their order; with `annotate_into`, a picture in that folder for each answer.

    Files are read as results are taken, a few ahead for each thread. Raises one of CANNOT_GO_ON.
    """
    if annotate_into is not None:
        _check_names(files)

    def work(file: File) -> Result:
        try:
            return Result(file.name, file.problem or _answer(file, ask, annotate_into, max_pixels))
        except OSError as error:
            return Result(file.name, f"The file cannot be read ({error.strerror}).")
        except (ImageUnreadable, ImageTooLarge, TimedOut) as error:
            return Result(file.name, str(error))
        except AgeGenderError as error:
            if isinstance(error, Unreachable) or error.problem is None:
                raise
            if error.problem.status not in _STATUSES_OF_ONE_IMAGE:
                raise
            return Result(file.name, str(error))

    begun: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for file in files:
            begun.append(pool.submit(work, file))
            if len(begun) == _AHEAD * threads:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # what is begun may wait for a service


def _answer(file: File, ask: Ask, annotate_into: Path | None, max_pixels: int) -> Prediction | str:
    data = file.read()
    answer = ask(data)
    if annotate_into is not None:
        drawn = annotate(decode(data, max_pixels), answer.faces)
        if max(drawn.shape) > _MAX_JPEG_SIDE:
            raise ImageTooLarge(
                f"A JPEG has at most {_MAX_JPEG_SIDE} pixels a side: this one cannot be annotated."
            )
        encoded = cv2.imencode(".jpg", drawn)[1]
        path = annotate_into / file.annotated
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded.tobytes())
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return f"Its annotated photograph would have too long a name, {file.annotated}."
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                path.unlink(missing_ok=True)  # half a picture
            raise CannotAnnotate(
                f"Annotated photographs cannot be written into {annotate_into} ({error.strerror})."
            ) from error
    return answer


def _check_names(files: Iterable[File]) -> None:
    taken: dict[str, str] = {}
    for file in files:
        if file.problem is None and taken.setdefault(file.annotated, file.name) != file.name:
            raise CannotAnnotate(
                f"{taken[file.annotated]} and {file.name} would be annotated under the same name, {file.annotated}: "
                "annotate them into different folders."
            )
