"""List and read the images of a data set: image files or Parquet files, on a disk or in a bucket."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from agegender.ahead import ahead
from agegender.inputs import SUFFIXES

PARQUET = ".parquet"

# A shard has 1/64 of the images before it: small data sets are shared evenly, and large ones make few files.
_SMALLEST_SHARD = 8
_LARGEST_SHARD = 1000
# Rows. Few ranges for each row group, since each range reads its row group from the start.
_SMALLEST_RANGE = 100
_MOST_RANGES = 16

# Files that a worker reads at a time: a bucket takes longer to answer than a model.
_READ_AHEAD = 8
_ROWS_AT_A_TIME = 16


class ScoreError(Exception):
    """The scoring cannot begin or go on; str(e) says why in a sentence."""


class Part(NamedTuple):
    """An image file, or `images` rows from `start` on of a row group of a Parquet file."""

    source: int
    path: str
    row_group: int | None = None
    start: int = 0
    images: int = 1


class Image(NamedTuple):
    """An encoded image, or a sentence that says why it cannot be read; `row` is its row in a Parquet file."""

    filename: str
    row: int | None
    data: bytes | str


@dataclass(frozen=True, slots=True)
class Source:
    """A file, a folder, or files whose paths below `root` match `pattern`."""

    files: FileSystem
    root: str
    pattern: re.Pattern[str] | None
    prefix: str
    """Precedes paths in output: `s3://`, or nothing for a local file."""

    def find(self) -> list[FileInfo]:
        """Return image files and Parquet files, sorted by path. Raises ScoreError if there are none."""
        try:
            root = self.files.get_file_info(self.root)
            if root.type == FileType.File:
                return [root]
            everything = self.files.get_file_info(
                FileSelector(self.root, allow_not_found=True, recursive=True)
            )
            found = [info for info in everything if info.type == FileType.File and self._takes(info.path)]
        except OSError as error:
            raise ScoreError(f"{self.prefix}{self.root} cannot be listed ({error}).") from error
        except UnicodeDecodeError as error:
            name = error.object.decode(errors="backslashreplace")
            raise ScoreError(f"The name {name} is not in UTF-8, as PyArrow needs it: rename it.") from error
        if not found:
            raise ScoreError(
                f"There is no JPEG, PNG, WebP, HEIC, AVIF, GIF, TIFF, BMP or Parquet file at {self.prefix}{self.root}"
                + (" that matches." if self.pattern else ".")
            )
        return sorted(found, key=lambda info: str(info.path))

    def _takes(self, path: str) -> bool:
        below = path[len(self.root) :].lstrip("/")
        hidden = below.startswith(".") or "/." in below
        matches = self.pattern is None or self.pattern.fullmatch(below)
        return bool(matches) and not hidden and path.lower().endswith((*SUFFIXES, PARQUET))


def open_source(name: str) -> Source:
    """Return the source `name`: a path or a pattern of paths, either of which may be a URI that PyArrow knows.

    `*` and `?` match within a name, `**` across folders; a folder that matches includes everything in it. In a URI,
    `?` begins the options instead. Raises ScoreError.
    """
    scheme, found, _ = name.partition("://")
    prefix = scheme + found if found and scheme != "file" else ""
    address, mark, options = name.partition("?") if found else (os.path.abspath(name), "", "")
    pattern = None
    wild = re.search(r"[*?]", address)
    if wild and not os.path.lexists(address):
        fixed = address.rindex("/", 0, wild.start()) + 1
        pattern = re.compile(_expression(address[fixed:]) + "(/.*)?", re.DOTALL)
        address = address[:fixed]
    files, root = open_folder(address + mark + options)
    return Source(files, root, pattern, prefix)


def open_folder(name: str) -> tuple[FileSystem, str]:
    """Return the file system of a path or URI, and the path in it. Raises ScoreError."""
    if "://" not in name:
        return LocalFileSystem(), os.path.abspath(name)
    try:
        files, path = FileSystem.from_uri(name)
    except (OSError, ValueError) as error:
        raise ScoreError(f"PyArrow cannot open {name} ({error}).") from error
    return files, path.rstrip("/")


def _expression(pattern: str) -> str:
    """Translate a pattern like `glob.translate`, which only Python 3.13 and later have."""
    of = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.sub(r"\*\*/|\*\*|\*|\?|[^*?]+", lambda part: of.get(part[0]) or re.escape(part[0]), pattern)


def plan(sources: Iterable[Source], column: str | None) -> Iterator[list[Part]]:
    """Divide the images of the sources into shards, each a list of parts. Raises ScoreError."""
    seen = 0
    for number, source in enumerate(sources):
        files: list[Part] = []
        for info in source.find():
            if info.path.lower().endswith(PARQUET):
                for part in _row_ranges(number, source, info.path, column):
                    seen += part.images
                    yield [part]
                continue
            files.append(Part(number, info.path))
            if len(files) >= min(max(_SMALLEST_SHARD, seen // 64), _LARGEST_SHARD):
                seen += len(files)
                yield files
                files = []
        if files:
            yield files


def _row_ranges(number: int, source: Source, path: str, column: str | None) -> Iterator[Part]:
    name = source.prefix + path
    try:
        with source.files.open_input_file(path) as file:
            metadata = pq.read_metadata(file)
    except (OSError, pa.ArrowException) as error:
        raise ScoreError(f"The Parquet file {name} cannot be read ({error}).") from error
    image_column(metadata.schema.to_arrow_schema(), column, name)
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        size = max(_SMALLEST_RANGE, math.ceil(rows / _MOST_RANGES))
        for start in range(0, rows, size):
            yield Part(number, path, group, start, min(size, rows - start))


def image_column(schema: pa.Schema, column: str | None, name: str) -> str:
    """Return the name of the column of images: bytes, or a struct with a field `bytes` as on Hugging Face.

    Raises ScoreError if `column` is not one, or is None and there are several.
    """
    binary = [field.name for field in schema if _is_binary(field.type)]
    if column in binary or (column is None and len(binary) == 1):
        return column or binary[0]
    listing = f"columns of bytes: {', '.join(binary)}" if binary else "it has no column of bytes"
    raise ScoreError(f"Name the column of {name} that holds the images (--column); {listing}.")


def _is_binary(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return kind in (pa.binary(), pa.large_binary(), pa.binary_view())


def read(sources: list[Source], parts: list[Part], column: str | None) -> Iterator[Image]:
    """Yield the images of a shard, in order. Reads several files at a time."""
    group = parts[0].row_group
    if group is not None:
        yield from _read_rows(sources[parts[0].source], parts[0], group, column)
        return
    with ThreadPoolExecutor(_READ_AHEAD) as threads:
        yield from ahead(threads, lambda part: _read_file(sources[part.source], part), parts, _READ_AHEAD)


def _read_file(source: Source, part: Part) -> Image:
    try:
        with source.files.open_input_file(part.path) as file:
            return Image(source.prefix + part.path, None, file.read())
    except OSError as error:
        return Image(source.prefix + part.path, None, f"The file cannot be read ({error}).")


def _read_rows(source: Source, part: Part, group: int, column: str | None) -> Iterator[Image]:
    name = source.prefix + part.path
    rows = iter(range(part.start, part.start + part.images))
    first = 0
    try:
        # A small buffer instead of the whole row group.
        with source.files.open_input_file(part.path) as file:
            parquet = pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False)
            first = sum(parquet.metadata.row_group(before).num_rows for before in range(group))
            chosen = image_column(parquet.schema_arrow, column, name)
            batches = parquet.iter_batches(_ROWS_AT_A_TIME, [group], [chosen])
            values = (value for batch in batches for value in batch.column(0))
            for value in islice(values, part.start, part.start + part.images):
                data = value.as_py()
                data = data.get("bytes") if isinstance(data, dict) else data
                yield Image(name, first + next(rows), data or "The row holds no bytes.")
    except (OSError, pa.ArrowException) as error:
        yield from (Image(name, first + row, f"The row cannot be read ({error}).") for row in rows)
