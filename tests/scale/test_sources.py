"""Which images a source stands for, and what is read of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import grey, png

pa = pytest.importorskip("pyarrow", reason="needs PyArrow: it is in requirements/dev.txt")
import pyarrow.parquet as pq  # noqa: E402
from agegender.scale.sources import Image, ScoreError, open_source, plan, read  # noqa: E402


def images(*names: str, column: str | None = None) -> list[Image]:
    sources = [open_source(name) for name in names]
    return [image for parts in plan(sources, column) for image in read(sources, parts, column)]


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.jpg",
        "a.PNG",
        "deep/deeper/c.avif",
        "deep/d #1 100%.webp",
        "e.txt",
        ".f.jpg",
        ".bin/g.jpg",
        "[h].jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (".", ["[h].jpg", "a.PNG", "b.jpg", "deep/d #1 100%.webp", "deep/deeper/c.avif"]),
        ("e.txt", ["e.txt"]),
        ("*.jpg", ["[h].jpg", "b.jpg"]),
        ("?.jpg", ["b.jpg"]),
        ("[h].jpg", ["[h].jpg"]),
        ("**/*.webp", ["deep/d #1 100%.webp"]),
        ("d*", ["deep/d #1 100%.webp", "deep/deeper/c.avif"]),
        ("de?p/*/*", ["deep/deeper/c.avif"]),
        ("file://{here}/deep/d*", ["deep/d #1 100%.webp", "deep/deeper/c.avif"]),
        ("file://{here}/deep/deeper", ["deep/deeper/c.avif"]),
    ],
)
def test_a_source_is_a_file_a_folder_a_pattern_or_a_uri(
    album: Path, source: str, expected: list[str]
) -> None:
    assert images(source.format(here=album)) == [
        Image(str(album / name), None, name.encode()) for name in expected
    ]


NONE = "There is no JPEG, PNG, WebP, HEIC, AVIF, GIF, TIFF, BMP or Parquet file at {here}"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("missing", f"{NONE}/missing."),
        ("*.bmp", f"{NONE} that matches."),
        ("nowhere/*.bmp", f"{NONE}/nowhere that matches."),
        ("foo://bar", "PyArrow cannot open foo://bar (Unrecognized filesystem type in URI: foo://bar)."),
    ],
)
def test_a_source_without_images_says_so(album: Path, source: str, sentence: str) -> None:
    with pytest.raises(ScoreError) as raised:
        images(source)
    assert str(raised.value) == sentence.format(here=album)


def test_a_name_that_is_not_utf_8_says_which(album: Path) -> None:
    Path(os.fsdecode(b"caf\xe9.jpg")).touch()
    with pytest.raises(ScoreError) as raised:
        images(".")
    assert f"The name {album}/caf\\xe9.jpg is not in UTF-8" in str(raised.value)


def test_a_file_that_is_gone_is_an_error_of_its_own(album: Path) -> None:
    sources = [open_source(".")]
    (parts,) = plan(sources, None)
    (album / "b.jpg").unlink()
    found = {Path(image.filename).name: image.data for image in read(sources, parts, None)}
    assert str(found["b.jpg"]).startswith("The file cannot be read (")
    assert found["a.PNG"] == b"a.PNG"


@pytest.mark.parametrize("nested", [False, True], ids=["bytes", "bytes in a field, as at Hugging Face"])
def test_images_of_parquet_files_are_named_by_their_row(tmp_path: Path, nested: bool) -> None:
    path = tmp_path / "set.Parquet"
    encoded = [png(grey(number % 250)) if number else None for number in range(700)]
    column = [image and {"bytes": image, "path": "x.png"} for image in encoded] if nested else encoded
    pq.write_table(pa.table({"id": range(700), "picture": column}), path, row_group_size=450)
    shards = list(plan([open_source(str(tmp_path))], None))
    assert len(shards) == 5 + 3  # of a hundred rows each, none of which spans two row groups
    assert images(str(tmp_path)) == [
        Image(str(path), row, image or "The row holds no bytes.") for row, image in enumerate(encoded)
    ]


def test_a_damaged_row_group_is_an_error_for_each_of_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    pq.write_table(
        pa.table({"image": [bytes([number]) * 1000 for number in range(20)]}),
        path,
        row_group_size=10,
        use_dictionary=False,
    )
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    found = images(str(path))
    assert [image.row for image in found] == list(range(20))
    assert all(str(image.data).startswith("The row cannot be read (") for image in found[:10])
    assert [image.data for image in found[10:]] == [bytes([number]) * 1000 for number in range(10, 20)]


def test_which_column_holds_images_must_be_clear(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    pq.write_table(pa.table({"left": [b"l"], "right": [b"r"], "n": [1]}), path)
    assert [image.data for image in images(str(path), column="right")] == [b"r"]
    for column in (None, "n"):
        with pytest.raises(ScoreError, match=r"\(--column\); columns of bytes: left, right\.$"):
            images(str(path), column=column)


def test_shards_grow_with_the_data_set(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"{number:04}.jpg").touch()
    sizes = [len(parts) for parts in plan([open_source(str(tmp_path))], None)]
    assert sum(sizes) == 2000
    assert sizes[0] == 8
    assert 8 < max(sizes) <= 2000 / 64
