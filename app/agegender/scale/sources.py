"""Images of a data set, in files or in Parquet, on a disk or in a bucket: which there are, and their bytes."""

from __future__ import annotations

import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from agegender.inputs import SUFFIXES

PARQUET = ".parquet"

# A shard has a 64th of the images before it: workers share small data sets evenly, and large ones make few files.
_SMALLEST_SHARD = 8
_LARGEST_SHARD = 1000
_SMALLEST_RANGE = 100
_RANGES_OF_A_ROW_GROUP = 16
"""At most: each reads its row group from the start, since Parquet cannot be entered in the middle of one."""

_READ_AHEAD = 8
"""Files that a worker reads at a time: a bucket takes longer to answer than a model."""
_ROWS_AT_A_TIME = 16

T = TypeVar("T")
R = TypeVar("R")


class ScoreError(Exception):
    """What ends the scoring; str(e) is a sentence that says what to do."""


class Part(NamedTuple):
    """Images of a source: `images` rows of a Parquet file's row group from `start` on, or else one file."""

    source: int
    path: str
    row_group: int | None = None
    start: int = 0
    images: int = 1


class Image(NamedTuple):
    """An image's file, its row where that is a Parquet file, and its encoded bytes or why there are none."""

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
    """Goes before a path in names that are shown: `s3://`, or nothing for a local file."""

    def find(self) -> Iterator[FileInfo]:
        """Images and Parquet files in the order of their names. Raises ScoreError where there are none."""
        try:
            root = self.files.get_file_info(self.root)
            if root.type == FileType.File:
                yield root
                return
            found = False
            for info in self._walk(root):
                found = True
                yield info
        except (OSError, UnicodeDecodeError) as error:
            raise ScoreError(f"{self.prefix}{self.root} cannot be listed ({error}).") from error
        if not found:
            raise ScoreError(
                f"There is no JPEG, PNG, WebP, HEIC, AVIF, GIF, TIFF, BMP or Parquet file at {self.prefix}{self.root}"
                + (" that matches." if self.pattern else ".")
            )

    def _walk(self, folder: FileInfo) -> Iterator[FileInfo]:
        if folder.type == FileType.NotFound:
            return
        for info in sorted(self.files.get_file_info(FileSelector(folder.path)), key=lambda each: each.path):
            if info.base_name.startswith("."):
                continue
            if info.type == FileType.Directory:
                yield from self._walk(info)
            elif info.base_name.lower().endswith((*SUFFIXES, PARQUET)) and self._matches(info.path):
                yield info

    def _matches(self, path: str) -> bool:
        return self.pattern is None or bool(self.pattern.fullmatch(path[len(self.root) :].lstrip("/")))


def open_source(name: str) -> Source:
    """The source of that name: a path, a pattern of paths, or either as a URI that PyArrow knows.

    In patterns `*` and `?` stand for letters of a name and `**` for folders; a folder that matches means all that is in
    it. `?` begins the options of a URI. Raises ScoreError.
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
    """The file system of a path or URI, and the path in it. Raises ScoreError."""
    if "://" not in name:
        return LocalFileSystem(), os.path.abspath(name)
    try:
        files, path = FileSystem.from_uri(name)
    except (OSError, ValueError) as error:
        raise ScoreError(f"{name} is no address that PyArrow can open ({error}).") from error
    return files, path.rstrip("/")


def _expression(pattern: str) -> str:
    """`glob.translate`, which Python has from 3.13 on, of as much as is needed here."""
    of = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.sub(r"\*\*/|\*\*|\*|\?|[^*?]+", lambda part: of.get(part[0]) or re.escape(part[0]), pattern)


def plan(sources: Iterable[Source], column: str | None) -> Iterator[list[Part]]:
    """All images of the sources, a shard at a time. Raises ScoreError."""
    seen = 0
    for number, source in enumerate(sources):
        files: list[Part] = []
        for info in source.find():
            if info.path.endswith(PARQUET):
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
        size = max(_SMALLEST_RANGE, math.ceil(rows / _RANGES_OF_A_ROW_GROUP))
        for start in range(0, rows, size):
            yield Part(number, path, group, start, min(size, rows - start))


def image_column(schema: pa.Schema, column: str | None, name: str) -> str:
    """The column of encoded bytes, which may be in a field `bytes` as in files of Hugging Face. Raises ScoreError."""
    having = [field.name for field in schema if _is_binary(field.type)]
    if column in having or (column is None and len(having) == 1):
        return column or having[0]
    listing = f"those that do are: {', '.join(having)}" if having else "none does"
    raise ScoreError(f"Name the column of {name} that holds the bytes of images (--column); {listing}.")


def _is_binary(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return kind in (pa.binary(), pa.large_binary(), pa.binary_view())


def read(sources: list[Source], parts: list[Part], column: str | None) -> Iterator[Image]:
    """Images in the order of `parts`, some of which are read ahead."""
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
        # Not all of a row group at once.
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


def ahead(executor: Executor, work: Callable[[T], R], items: Iterable[T], limit: int) -> Iterator[R]:
    """`executor.map` that begins at most `limit` items before the first of them is taken."""
    begun: deque[Future[R]] = deque()
    for item in items:
        begun.append(executor.submit(work, item))
        if len(begun) == limit:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()
