"""`python -m training` as it is run at first: each mistake is one sentence that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from face_images import write_chips
from helpers import ASTRONAUT, PATIENCE, ROOT, environment, full_disk


def fail(tmp_path: Path, cache: Path, *arguments: object, **extra: str) -> str:
    """Run it in `tmp_path`, where it must fail; the sentence that says why."""
    ended = subprocess.run(
        [sys.executable, "-m", "training", *map(str, arguments)],
        cwd=tmp_path,
        env=environment(cache, **extra),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    (sentence,) = [line for line in ended.stderr.splitlines() if line.startswith("training: ")]
    assert ended.stderr.endswith(f"{sentence}\n")
    return sentence.removeprefix("training: ")


@pytest.mark.parametrize(
    "arguments",
    [("make", "A"), ("calibrate", "A")],
    ids=lambda args: args[0],
)
def test_without_what_training_needs_it_says_how_to_get_that(
    tmp_path: Path, empty_cache: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "keras.py").write_text("raise ModuleNotFoundError(\"No module named 'keras'\", name='keras')")
    said = fail(tmp_path, empty_cache, *arguments)
    assert said == "keras is not installed: run `make env-train` first."


@pytest.mark.parametrize(
    ("utkface", "said"),
    [
        (
            "nowhere",
            "nowhere cannot be unpacked (No such file or directory): name the data set's folder or its",
        ),
        (
            ROOT / "README.md",
            "README.md is not a complete archive: name the data set's folder or its archive",
        ),
        (ROOT / "app", "No usable face was found: are these the archives of UTKFace and FairFace?"),
    ],
    ids=["nothing", "no archive", "another folder"],
)
def test_what_is_no_data_set_is_said_to_be_none(
    tmp_path: Path, empty_cache: Path, utkface: object, said: str
) -> None:
    pytest.importorskip(
        "matplotlib", reason="the training job's packages are not installed: `make env-train`"
    )
    assert said in fail(tmp_path, empty_cache, "prepare", "--utkface", utkface)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, empty_cache: Path) -> None:
    pytest.importorskip(
        "matplotlib", reason="the training job's packages are not installed: `make env-train`"
    )
    said = fail(tmp_path, empty_cache, "prepare", "--utkface", ROOT / "app", "--cache", ASTRONAUT / "cache")
    assert said == f"{ASTRONAUT}/cache cannot be used (Not a directory): check its path and rights."


def test_a_full_disk_is_said_to_be_full(tmp_path: Path, empty_cache: Path) -> None:
    pytest.importorskip(
        "matplotlib", reason="the training job's packages are not installed: `make env-train`"
    )
    write_chips(tmp_path / "chips", 20)
    with full_disk(200_000):
        said = fail(tmp_path, empty_cache, "prepare", "--utkface", tmp_path / "chips")
    assert said == "Nothing more can be written (File too large): make room, then run the command again."
    assert not list((tmp_path / "data/cache").iterdir())


def test_a_stop_leaves_no_unpacked_archive_behind(tmp_path: Path, empty_cache: Path) -> None:
    pytest.importorskip(
        "matplotlib", reason="the training job's packages are not installed: `make env-train`"
    )
    # An archive that never comes, so that the folder for what is in it stays for long enough.
    os.mkfifo(tmp_path / "UTKFace.tar")
    (tmp_path / "aside").mkdir()
    command = [sys.executable, "-m", "training", "prepare", "--utkface", tmp_path / "UTKFace.tar"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(empty_cache, TMPDIR=str(tmp_path / "aside"))
    ) as process:
        until = time.monotonic() + PATIENCE
        while not list((tmp_path / "aside").iterdir()):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        process.terminate()
    assert process.returncode == 143
    assert not list((tmp_path / "aside").iterdir())


def test_what_comes_before_is_named(tmp_path: Path, empty_cache: Path) -> None:
    pytest.importorskip(
        "matplotlib", reason="the training job's packages are not installed: `make env-train`"
    )
    assert fail(tmp_path, empty_cache, "evaluate", "age_gender_A").startswith(
        f"There is no models folder {tmp_path}/models: name the one"
    )
    said = fail(tmp_path, empty_cache, "evaluate", "age_gender_A", "--models", ROOT / "models")
    assert said == "data/cache holds no prepared faces: run `python -m training prepare` first."
