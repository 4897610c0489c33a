"""The cache that training reads: uint8 crops on disk, memory-mapped, with their labels and splits."""

from __future__ import annotations

import hashlib
import itertools
import lzma
import math
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from agegender.vision.align import CROP_SIZE, crop_face, crop_whole
from agegender.vision.decode import ImageTooLarge, ImageUnreadable, decode
from agegender.vision.detect import Detector
from agegender.vision.face import Box, Face
from agegender.vision.image import Image
from numpy.typing import NDArray
from rich.progress import track

from training.errors import TrainingError
from training.files import write_aside
from training.labels import Label, parse_utkface_name, read_fairface_labels
from training.splits import TEST, assign_splits, perceptual_hashes

CROPS_FILE = "crops.uint8"
LABELS_FILE = "labels.npz"
UTKFACE, FAIRFACE = "utkface", "fairface"
FAIRFACE_VAL = "fairface_val"
NAMES = {UTKFACE: "UTKFace", FAIRFACE: "FairFace", FAIRFACE_VAL: "FairFace's official validation"}
IMAGE_SUFFIXES = {".jpg", ".webp"}

_Found = tuple[str, Label, NDArray[np.uint8]]
"""A name, its label and the crop of the face."""


@dataclass(frozen=True)
class Faces:
    """Crops with what is known of them; every field has one entry a face."""

    crops: NDArray[np.uint8]
    """(n, 128, 128, 3) RGB, memory-mapped: rows are read from disk when they are used."""
    age_low: NDArray[np.int64]
    age_high: NDArray[np.int64]
    """First and last year of the age label; equal where the age is known exactly."""
    male: NDArray[np.bool_]
    race: NDArray[np.str_]
    dataset: NDArray[np.str_]
    split: NDArray[np.str_]
    name: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.name)

    def indices(self, split: str, dataset: str | None = None) -> NDArray[np.int64]:
        """Rows of `split`, of one data set or of all."""
        chosen = self.split == split
        if dataset is not None:
            chosen &= self.dataset == dataset
        return np.flatnonzero(chosen)

    def digest(self) -> str:
        """SHA-256 over labels, splits and crops' names: what a training run records as its data."""
        digest = hashlib.sha256()
        for column in (self.name, self.age_low, self.age_high, self.male, self.dataset, self.split):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()


@dataclass
class Summary:
    """What `prepare` did with the files of one data set."""

    used: int = 0
    repaired: list[str] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    no_face: list[str] = field(default_factory=list)


def load(cache: Path) -> Faces:
    """Open a cache that `prepare` wrote; raises TrainingError where there is none, or a damaged one."""
    if not (cache / LABELS_FILE).is_file():
        raise TrainingError(f"{cache} holds no prepared faces: run `python -m training prepare` first.")
    try:
        with np.load(cache / LABELS_FILE) as labels:
            columns = {name: labels[name] for name in labels.files}
        crops = np.memmap(cache / CROPS_FILE, np.uint8, "r")
        return Faces(crops=crops.reshape(len(columns["name"]), CROP_SIZE, CROP_SIZE, 3), **columns)
    except (EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise TrainingError(
            f"{cache} is damaged, or of another version: run `python -m training prepare` again."
        ) from error


def prepare(
    cache: Path, utkface: Path | None, fairface: Sequence[Path] = (), detector: Detector | None = None
) -> tuple[Faces, dict[str, Summary]]:
    """Crop and label every usable face of the data sets, archives or folders, into `cache`.

    UTKFace's chips are crops already; FairFace's images are cropped by `detector` and the service's alignment.
    Readers of an existing cache keep it. Raises TrainingError.
    """
    cache.mkdir(parents=True, exist_ok=True)
    summaries: dict[str, Summary] = {}
    sources: dict[str, Iterable[_Found]] = {}
    if utkface is not None:
        summaries[UTKFACE] = Summary()
        sources[UTKFACE] = _utkface(utkface, summaries[UTKFACE])
    if fairface:
        if detector is None:
            raise ValueError("FairFace's images are not aligned: a detector is needed to crop them")
        summaries[FAIRFACE] = Summary()
        parts = [_fairface(part, "train", detector, summaries[FAIRFACE]) for part in fairface]
        sources[FAIRFACE] = itertools.chain.from_iterable(parts)
    found: list[tuple[str, Label, str, NDArray[np.uint64]]] = []

    def write(partial: Path) -> None:
        with partial.open("wb") as crops:
            for dataset, faces in sources.items():
                for name, label, crop in faces:
                    crops.write(crop.tobytes())
                    found.append((name, label, dataset, perceptual_hashes(crop)))
        if not found:
            raise TrainingError("No usable face was found: are these the archives of UTKFace and FairFace?")
        # Without labels there is no cache: labels are never next to crops of another run.
        (cache / LABELS_FILE).unlink(missing_ok=True)

    write_aside(cache / CROPS_FILE, write)
    names, labels, datasets, hashes = zip(*found, strict=True)
    columns = _columns(labels, names, datasets, assign_splits(names, np.array(hashes)))
    write_aside(cache / LABELS_FILE, lambda path: np.savez(path, **columns))
    return load(cache), summaries


def utkface_files(folder: Path) -> list[tuple[str, Path, Label | None]]:
    """Name, path and label of each image of UTKFace, None where its name says none; copies of a name count once."""
    files = {file.name: file for file in sorted(folder.rglob("*.jpg"), reverse=True)}
    return [(name, file, parse_utkface_name(name)) for name, file in sorted(files.items())]


def fairface_files(folder: Path, part: str) -> list[tuple[str, Path, Label | None]]:
    """The same of FairFace's `part`, "train" or "val", by its table. Raises TrainingError if it has not one table."""
    tables = sorted(folder.rglob(f"fairface_label_{part}.csv"))
    if len(tables) != 1:
        raise TrainingError(
            f"{folder} has {len(tables)} tables fairface_label_{part}.csv, not one: is it FairFace?"
        )
    root = tables[0].parent
    labels: dict[str, Label | None] = dict(read_fairface_labels(tables[0]))
    for file in (root / part).rglob("*"):
        if file.suffix in IMAGE_SUFFIXES:
            labels.setdefault(file.relative_to(root).as_posix(), None)
    return [(f"{FAIRFACE}/{name}", root / name, label) for name, label in sorted(labels.items())]


def official_validation(path: Path, detector: Detector) -> tuple[Faces, Summary]:
    """The faces of FairFace's own validation split, as a data set of its own that is all test; raises TrainingError."""
    summary = Summary()
    found = list(_fairface(path, "val", detector, summary))
    if not found:
        raise TrainingError(f"{path} holds no face of FairFace's validation split.")
    names, labels, crops = zip(*found, strict=True)
    splits = np.full(len(names), TEST)
    return Faces(np.stack(crops), **_columns(labels, names, [FAIRFACE_VAL] * len(names), splits)), summary


def _columns(
    labels: Sequence[Label], names: Sequence[str], datasets: Sequence[str], splits: NDArray[np.str_]
) -> dict[str, Any]:
    """What is known of each face, by the fields of `Faces`."""
    return {
        "age_low": np.array([label.age_low for label in labels]),
        "age_high": np.array([label.age_high for label in labels]),
        "male": np.array([label.male for label in labels]),
        "race": np.array([label.race for label in labels]),
        "dataset": np.array(datasets),
        "split": splits,
        "name": np.array(names),
    }


def _utkface(path: Path, summary: Summary) -> Iterator[_Found]:
    with as_folder(path) as folder:
        for name, label, image in _images(utkface_files(folder), "UTKFace", summary):
            if label.repaired:
                summary.repaired.append(name)
            summary.used += 1
            yield name, label, crop_whole(image)


def _fairface(path: Path, part: str, detector: Detector, summary: Summary) -> Iterator[_Found]:
    with as_folder(path) as folder:
        for name, label, image in _images(fairface_files(folder, part), f"FairFace, {part}", summary):
            face = most_central(detector.detect(image), image)
            if face is None:
                summary.no_face.append(name)
                continue
            summary.used += 1
            yield name, label, crop_face(image, face)


def _images(
    files: Sequence[tuple[str, Path, Label | None]], what: str, summary: Summary
) -> Iterator[tuple[str, Label, Image]]:
    """Those that have a label and can be read; `summary` lists the others."""
    for name, file, label in track(files, what):
        if label is None:
            summary.malformed.append(name)
        elif (image := read_image(file, name, summary)) is not None:
            yield name, label, image


def most_central(faces: list[Face], image: Image) -> Face | None:
    """The face that a labelled portrait is about: the one whose box's centre is nearest to the image's."""
    height, width = image.shape[:2]
    return min(faces, key=lambda face: distance_from_centre(face.box, width, height), default=None)


def distance_from_centre(box: Box, width: int, height: int) -> float:
    """Pixels between the centres of `box` and of an image of `width` x `height`."""
    return math.hypot(box.x + box.width / 2 - width / 2, box.y + box.height / 2 - height / 2)


def read_image(file: Path, name: str, summary: Summary) -> Image | None:
    """The pixels of `file`, or None, and `name` among the unreadable ones of `summary`."""
    try:
        return decode(file.read_bytes())
    except (OSError, ImageUnreadable, ImageTooLarge):
        summary.unreadable.append(name)
        return None


@contextmanager
def as_folder(path: Path) -> Iterator[Path]:
    """`path` itself if it is a folder, else the archive's contents in a temporary one."""
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    archive.extract(member, folder, filter="data")
                _check_rest(archive)
        except (EOFError, OSError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
            why = getattr(error, "strerror", None) or "no complete archive"
            raise TrainingError(
                f"{path} cannot be unpacked ({why}): name the data set's folder or its archive as downloaded."
            ) from error
        yield Path(folder)


def _check_rest(archive: tarfile.TarFile) -> None:
    """Read to the end, where the compression's checksum is: tarfile stops before it.

    It also takes a damaged header or a truncation for the end: raises tarfile.ReadError if that is not the end.
    """
    file = cast("IO[bytes]", archive.fileobj)
    if file.tell() < archive.offset + tarfile.BLOCKSIZE:
        raise tarfile.ReadError("the end is missing")
    while rest := file.read(1 << 20):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("members are left")
