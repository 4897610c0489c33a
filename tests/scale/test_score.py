"""`agegender score`: each image of a data set is in the results once, however often the run is killed."""

from __future__ import annotations

import contextlib
import csv
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import AGEGENDER, ASTRONAUT, GRACE_HOPPER, PATIENCE, agegender, environment, full_disk, grey, png

ds = pytest.importorskip("pyarrow.dataset", reason="needs PyArrow: it is in requirements/dev.txt")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(models_folder: Path, empty_cache: Path) -> Run:
    return partial(agegender, empty_cache, AGEGENDER_MODELS=str(models_folder))


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A person, a person in a folder below, nobody, and what is no image."""
    folder = tmp_path / "album"
    (folder / "deep").mkdir(parents=True)
    (folder / "astronaut.jpg").write_bytes(ASTRONAUT.read_bytes())
    (folder / "deep/grace #1 100%.jpg").write_bytes(GRACE_HOPPER.read_bytes())
    (folder / "nobody.png").write_bytes(png(grey(90, 320, 240)))
    (folder / "junk.jpg").write_bytes(b"this is no image")
    (folder / "notes.txt").write_text("no image, and not asked for")
    return folder


def rows_of(output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = ds.dataset(output, format="parquet").to_table().to_pylist()
    return sorted(rows, key=lambda row: (row["filename"], row["row"] or 0, row["x"] or 0))


def names(output: Path) -> list[tuple[str, int | None]]:
    return [(Path(row["filename"]).name, row["row"]) for row in rows_of(output)]


def test_results_are_those_of_predict(run: Run, album: Path, tmp_path: Path) -> None:
    scored = run("score", album, "--output", tmp_path / "out")
    assert (scored.returncode, scored.stderr) == (0, "")
    assert scored.stdout.startswith("4 images in ")
    assert scored.stdout.endswith("2 faces, 1 images without a face, 1 errors.\n")
    predicted = csv.DictReader(run("predict", "--csv", album).stdout.splitlines())
    expected = sorted(predicted, key=lambda row: row["filename"])
    found = rows_of(tmp_path / "out")
    for row in found:
        assert row.pop("row") is None
    assert [
        {key: "" if value is None else str(value) for key, value in row.items()} for row in found
    ] == expected


def test_other_questions_need_another_folder(run: Run, album: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run("score", album, "--output", output).returncode == 0
    before = rows_of(output)
    for changed in ([album, "--max-faces=1"], [album / "deep"], [album, "--model=age_gender_A"]):
        ended = run("score", *changed, "--output", output)
        assert ended.returncode == 1
        assert ended.stderr.startswith(
            f"agegender: {output} holds results of other sources, options or models"
        )
    assert rows_of(output) == before


def test_what_concerns_all_images_ends_it_before_anything_is_written(
    run: Run, album: Path, tmp_path: Path
) -> None:
    ended = run("score", album, "--output", tmp_path / "out", "--detector=yunet")
    assert ended.returncode == 1
    assert ended.stderr.startswith("agegender: The detector yunet is not installed here")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_ends_it_and_nothing_is_lost(run: Run, album: Path, tmp_path: Path) -> None:
    command = ("score", album, "--output", tmp_path / "out", "--workers=1")
    with full_disk(5000):
        ended = run(*command)
    assert ended.returncode == 1
    assert ended.stderr.startswith("agegender: The results cannot be written into")
    assert run(*command).returncode == 0
    assert len(names(tmp_path / "out")) == 4


@pytest.mark.parametrize("address", ["auto", "nonsense", "127.0.0.1:1"])
def test_a_cluster_that_is_not_there_ends_it(run: Run, album: Path, tmp_path: Path, address: str) -> None:
    pytest.importorskip("ray", reason="needs Ray: `make test-scale` runs these tests")
    ended = run(
        "score",
        album,
        "--output",
        tmp_path / "out",
        f"--ray={address}",
        RAY_gcs_rpc_server_connect_timeout_s="1",
        RAY_py_gcs_connect_timeout_s="1",
    )
    assert ended.returncode == 1
    assert f"agegender: No Ray cluster can be reached at {address} (" in ended.stderr


@pytest.fixture(params=["processes", "ray"])
def where(request: pytest.FixtureRequest) -> list[str]:
    """Options that make workers processes of this machine, or actors of a cluster."""
    if request.param == "processes":
        return ["--workers=2"]
    return [f"--ray={request.getfixturevalue('cluster').address}"]


def test_killed_five_times_at_random_it_loses_nothing_and_does_nothing_twice(
    run: Run,
    models_folder: Path,
    empty_cache: Path,
    tmp_path: Path,
    where: list[str],
    ray_processes: Callable[[str], list[int]],
) -> None:
    images, output = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for number in range(150):
        content = b"junk" if number % 10 == 0 else png(grey(number, 1200, 900))
        (images / f"{number:03}.png").write_bytes(content)
    command = ("score", images, "--output", output, *where)
    chance = random.Random(os.urandom(8))

    def done() -> dict[str, int]:
        return {part.name: part.stat().st_mtime_ns for part in output.glob("part-*")}

    finished: dict[str, int] = {}
    for _ in range(5):
        process = subprocess.Popen(
            [AGEGENDER, *map(str, command)],
            env=environment(empty_cache, AGEGENDER_MODELS=str(models_folder)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        enough = len(finished) + chance.randint(1, 3)
        deadline = time.monotonic() + PATIENCE
        while len(done()) < enough and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(chance.uniform(0, 0.05))
        workers = children_of(process.pid)
        victim = chance.choice([process.pid, *workers])
        with contextlib.suppress(ProcessLookupError):  # it may just have ended
            os.kill(victim, signal.SIGKILL)
        _, err = process.communicate(timeout=PATIENCE)
        assert victim == process.pid or err.startswith("agegender: A worker was killed"), err
        while any(map(is_running, workers)) or ray_processes("MapWorker"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert finished.items() <= done().items()  # none was written again
        finished = done()
    ended = run(*command)
    assert ended.returncode == 0, ended.stderr
    assert finished.items() <= done().items()
    assert names(output) == [(f"{number:03}.png", None) for number in range(150)]
    assert sum(row["error"] is not None for row in rows_of(output)) == 15
    assert run(*command).stdout.startswith("0 images in ")


def children_of(pid: int) -> list[int]:
    """Its worker processes."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
