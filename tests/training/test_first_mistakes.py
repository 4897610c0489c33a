"""`python -m training` as it is run at first: each mistake is one sentence that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from face_images import write_chips
from helpers import ASTRONAUT, ROOT, environment, full_disk, run_program, wait_until

pytest.importorskip("fairlearn", reason="the training job's packages are not installed: `make env-train`")

from training.cli import main


def sentence(error_output: str) -> str:
    """The sentence that ends it."""
    assert "Traceback" not in error_output
    (said,) = [line for line in error_output.splitlines() if line.startswith("training: ")]
    assert error_output.endswith(f"{said}\n")
    return said.removeprefix("training: ")


def fail(*arguments: object) -> str:
    """Run it in this process, where it must fail; the sentence that says why."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return sentence(f"{ended.value.code}\n")


def fail_apart(tmp_path: Path, cache: Path, *arguments: object) -> str:
    """Run it in a process of its own in `tmp_path`, where it must fail; the sentence that says why."""
    command = (sys.executable, "-m", "training", *map(str, arguments))
    ended = run_program(*command, cwd=tmp_path, env=environment(cache))
    assert ended.returncode == 1
    return sentence(ended.stderr)


def test_without_what_training_needs_it_says_how_to_get_that(tmp_path: Path, empty_cache: Path) -> None:
    (tmp_path / "keras.py").write_text("raise ModuleNotFoundError(\"No module named 'keras'\", name='keras')")
    said = fail_apart(tmp_path, empty_cache, "calibrate", "A")
    assert said == "keras is not installed: run `make env-train` first."


def test_what_is_no_data_set_is_said_to_be_none(tmp_path: Path) -> None:
    cache = ("--cache", tmp_path / "cache")
    assert fail("prepare", "--utkface", "nowhere", *cache).startswith("nowhere cannot be unpacked (No such")
    assert "README.md cannot be unpacked (no complete archive): " in fail(
        "prepare", "--utkface", ROOT / "README.md", *cache
    )
    assert fail("prepare", "--utkface", ROOT / "app", *cache).startswith("No usable face was found: ")
    said = fail("prepare", "--utkface", ROOT / "app", "--cache", ASTRONAUT / "cache")
    assert said == f"{ASTRONAUT}/cache cannot be used (Not a directory): check its path and rights."


def test_a_full_disk_is_said_to_be_full(tmp_path: Path, empty_cache: Path) -> None:
    write_chips(tmp_path / "chips", 20)
    with full_disk(200_000):
        said = fail_apart(tmp_path, empty_cache, "prepare", "--utkface", tmp_path / "chips")
    assert said == "Nothing more can be written (File too large): make room, then run it again."
    assert not list((tmp_path / "data/cache").iterdir())


def test_a_stop_leaves_no_unpacked_archive_behind(tmp_path: Path, empty_cache: Path) -> None:
    # An archive that never comes, so that the folder for what is in it stays for long enough.
    os.mkfifo(tmp_path / "UTKFace.tar")
    (tmp_path / "aside").mkdir()
    command = [sys.executable, "-m", "training", "prepare", "--utkface", tmp_path / "UTKFace.tar"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(empty_cache, TMPDIR=str(tmp_path / "aside"))
    ) as process:
        wait_until(lambda: list((tmp_path / "aside").iterdir()), "there is a folder for the archive")
        process.terminate()
    assert process.returncode == 143
    assert not list((tmp_path / "aside").iterdir())


def test_what_comes_before_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fail("evaluate", "age_gender_A").startswith("There is no models folder ")
    said = fail("evaluate", "age_gender_A", "--models", ROOT / "models")
    assert said == "data/cache holds no prepared faces: run `python -m training prepare` first."


def test_archives_that_lack_prepared_faces_are_not_compared_on(tmp_path: Path) -> None:
    write_chips(tmp_path / "chips", 100)
    chips = ("--utkface", tmp_path / "chips", "--cache", tmp_path / "cache")
    with pytest.raises(SystemExit, match="0"):
        main(["prepare", *map(str, chips)])
    for chip in sorted((tmp_path / "chips").iterdir())[:50]:
        chip.unlink()
    said = fail("compare", *chips, "--models", ROOT / "models")
    assert "are not in the archives: name every archive of UTKFace" in said
