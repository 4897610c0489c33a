"""Which files are meant by a name, how many of them are in memory at a time, and what Ctrl-C leaves of them."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import pytest
from agegender.answers import Prediction
from agegender.cli.files import File, Result, find_files, results
from agegender.cli.output import print_json
from agegender.settings import Settings
from agegender.vision.decode import ImageUnreadable
from helpers import PATIENCE

ANSWER = Prediction.model_validate(Prediction.model_json_schema()["example"])


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.jpg", "a.PNG", "[b].jpg", "deep/deeper/c.avif", "deep/d.webp", "e.txt",
        "drawn/b.annotated.jpg", ".f.jpg", ".bin/g.jpg"
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["."], ["[b].jpg", "a.PNG", "b.jpg", "deep/d.webp", "deep/deeper/c.avif"]),
        (["e.txt", "b.jpg"], ["e.txt", "b.jpg"]),
        (["*.jpg", "deep/*"], ["[b].jpg", "b.jpg", "deep/d.webp", "deep/deeper/c.avif"]),
        (["[b].jpg"], ["[b].jpg"]),
        (["**/*.webp"], ["deep/d.webp"]),
        (["deep/**"], ["deep/d.webp", "deep/deeper/c.avif"]),
        (["drawn/*"], ["drawn/b.annotated.jpg"]),
        (["-", "b.jpg"], ["-", "b.jpg"]),
    ],
    ids=[
        "folder",
        "files of any kind",
        "patterns",
        "a name before a pattern",
        "deep pattern",
        "folders and what is in them",
        "named all the same",
        "stdin",
    ],
)
def test_names_stand_for_files_in_order(album: Path, names: list[str], expected: list[str]) -> None:
    assert [file.name for file in find_files(names)[0]] == expected


def test_a_name_that_stands_for_nothing_says_so(album: Path) -> None:
    (album / "empty").mkdir()
    missing, pattern, folder = find_files(["missing.jpg", "*.tiff", "empty"])[0]
    assert missing.problem is None  # as reading it will tell
    assert pattern == File("*.tiff", problem="No file matches this pattern.")
    assert folder == File("empty", problem="The folder contains no image file.")


def test_what_a_folder_leaves_out_is_counted_by_kind(album: Path) -> None:
    for name in ("f.txt", "movie.MOV", "README"):
        (album / name).touch()
    everything = {".txt": 2, "without a suffix": 1, ".mov": 1, "hidden": 2, "annotated": 1}
    assert find_files([".", "deep", "e.txt", "draw*"])[1] == {
        ".": everything,
        "deep": {},
        "e.txt": {},
        "draw*": {"annotated": 1},
    }
    (album / "deep/deeper/z.txt").touch()
    assert find_files(["deep/**/"])[1] == {"deep/**/": {".txt": 1}}  # though both folders match


def test_results_come_in_order_from_several_threads_and_few_files_are_read_ahead(album: Path) -> None:
    names = [f"{number}.jpg" for number in range(200)]
    for name in names:
        (album / name).write_bytes(name.encode())
    asked: list[bytes] = []
    both = threading.Barrier(2, timeout=PATIENCE)

    def predict(data: bytes) -> Prediction:
        if data in (b"0.jpg", b"1.jpg"):
            both.wait()  # which one thread alone would never pass
        asked.append(data)
        if data == b"7.jpg":
            raise ImageUnreadable("No image.")
        return ANSWER.model_copy(update={"model": data.decode()})

    seen = []
    for taken, result in enumerate(results([File(name) for name in names], predict, 2, Settings())):
        seen.append(result.outcome if isinstance(result.outcome, str) else result.outcome.model)
        assert result.name == names[taken]
        assert len(asked) <= taken + 8
    assert seen == [*names[:7], "No image.", *names[8:]]


def test_ctrl_c_between_two_photographs_leaves_json_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def write(self, text: str) -> int:
            if "b.jpg" in text:
                raise KeyboardInterrupt
            return super().write(text)

    printed = Terminal()
    monkeypatch.setattr("sys.stdout", printed)
    with pytest.raises(KeyboardInterrupt):
        print_json([Result("a.jpg", "Broken."), Result("b.jpg", "Broken.")])
    assert json.loads(printed.getvalue()) == [{"filename": "a.jpg", "error": "Broken."}]
