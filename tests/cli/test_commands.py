"""`agegender` as a command: what it prints, where, and how it ends."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pytest
from agegender.settings import Settings
from helpers import (
    AGEGENDER,
    ASTRONAUT,
    GRACE_HOPPER,
    PATIENCE,
    YUNET,
    Server,
    environment,
    full_disk,
    grey,
    needs_yunet,
    pixels,
    png,
    side_by_side,
    turned,
    without_timings,
)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def junk(tmp_path: Path) -> Path:
    path = tmp_path / "junk.jpg"
    path.write_bytes(b"this is no image")
    return path


def run(
    cache: Path, *arguments: object, stdin: Path = Path(os.devnull), **extra: str
) -> subprocess.CompletedProcess[str]:
    with stdin.open("rb") as given:
        ended = subprocess.run(
            [AGEGENDER, *map(str, arguments)],
            stdin=given,
            env=environment(cache, COLUMNS="200", **extra),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert "Traceback" not in ended.stderr
    return ended


def predict(models: Path, cache: Path, *arguments: object, **extra: str) -> subprocess.CompletedProcess[str]:
    return run(cache, "predict", *arguments, AGEGENDER_MODELS=str(models), **extra)


def test_it_says_its_version(cache: Path) -> None:
    ended = run(cache, "--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{version('agegender')}\n", "")


def test_predict_prints_a_table_and_goes_on_after_a_file_that_is_no_image(
    models_folder: Path, cache: Path, junk: Path, tmp_path: Path
) -> None:
    nobody = tmp_path / "nobody.png"
    nobody.write_bytes(png(grey(90, 320, 240)))
    missing = tmp_path / "missing.jpg"
    ended = predict(models_folder, cache, ASTRONAUT, junk, nobody, missing, GRACE_HOPPER)
    assert ended.returncode == 1
    rows = {
        Path(cells[0].strip()).name: [cell.strip() for cell in cells[1:]]
        for cells in re.findall("[│|](.*?)[│|](.*?)[│|](.*?)[│|](.*?)[│|](.*?)[│|]", ended.stdout)
    }
    assert rows.keys() == {"astronaut.jpg", "nobody.png", "grace_hopper.jpg"}
    for photograph in ("astronaut.jpg", "grace_hopper.jpg"):
        box, age, gender, found_by = rows[photograph]
        assert re.fullmatch(r"\d+, \d+, \d+, \d+", box)
        assert re.fullmatch(r"\d+\.\d \(\d+-\d+\)", age)
        assert re.fullmatch(r"(fe)?male \d+%", gender)
        assert re.fullmatch(r"haar \d+%", found_by)
    assert rows["nobody.png"] == ["no face found", "", "", "haar"]
    first, second = ended.stderr.splitlines()
    assert first.startswith(f"{junk}: The ")
    assert second == f"{missing}: The file cannot be read (No such file or directory)."


def test_predict_prints_json_that_says_what_the_service_says(
    server: Server, models_folder: Path, cache: Path, junk: Path
) -> None:
    options = ["--json", "--detector=haar", "--model=age_gender_A"]
    ended = predict(models_folder, cache, *options, junk, ASTRONAUT)
    assert ended.returncode == 1
    wrong, right = json.loads(ended.stdout)
    assert wrong.keys() == {"filename", "error"}
    assert wrong["filename"] == str(junk)
    assert ended.stderr == f"{junk}: {wrong['error']}\n"
    assert right.keys() == {"filename", "prediction"}
    assert right["filename"] == str(ASTRONAUT)
    served = server.predict(ASTRONAUT.read_bytes(), detector="haar", model="age_gender_A").json()
    assert without_timings(right["prediction"]) == without_timings(served)
    assert len(served["faces"]) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device on which nothing can be written")
@pytest.mark.parametrize("form", ["--json", "--csv", "--max-faces=1"])
def test_predict_says_so_where_its_answers_cannot_be_written(
    models_folder: Path, cache: Path, form: str
) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [AGEGENDER, "predict", form, "--detector=none", ASTRONAUT],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(cache, AGEGENDER_MODELS=str(models_folder)),
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (
        1,
        "agegender: The answers cannot be written (No space left on device).\n",
    )


def test_predict_ends_with_0_when_all_went_well(models_folder: Path, cache: Path) -> None:
    ended = predict(models_folder, cache, "--detector=none", ASTRONAUT)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            "--model=age_gender_Z",
            "agegender: There is no such model; there are: age_gender_A, age_gender_B.\n",
        ),
        ("--detector=yunet", "agegender: The detector yunet is not installed here: use auto or haar"),
    ],
)
def test_predict_says_in_a_sentence_what_is_not_there(
    models_folder: Path, cache: Path, option: str, said: str
) -> None:
    ended = predict(models_folder, cache, option, ASTRONAUT)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(said)
    assert ended.stderr.count("\n") == 1


def test_a_photograph_too_wide_to_be_drawn_is_said_to_be_and_the_others_are_drawn(
    models_folder: Path, cache: Path, tmp_path: Path
) -> None:
    wide = tmp_path / "wide :smile:.png"
    wide.write_bytes(png(grey(90, 65_501, 64)))
    into = tmp_path / "drawn"
    ended = predict(models_folder, cache, f"--annotate={into}", wide, ASTRONAUT)
    assert ended.returncode == 1
    assert ended.stderr == f"{wide}: A JPEG has at most 65500 pixels a side: this one cannot be annotated.\n"
    assert [path.name for path in into.iterdir()] == ["astronaut.annotated.jpg"]


def test_a_full_disk_leaves_no_half_of_a_picture(models_folder: Path, cache: Path, tmp_path: Path) -> None:
    with full_disk(20_000):
        ended = predict(models_folder, cache, f"--annotate={tmp_path}", ASTRONAUT)
    assert ended.returncode == 1
    assert "cannot be written" in ended.stderr
    assert "File too large" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_a_pattern_that_finds_an_empty_folder_says_so_and_the_others_are_read(
    models_folder: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "photographs" / "deeper").mkdir(parents=True)
    ended = predict(models_folder, cache, "--csv", ASTRONAUT, tmp_path / "photographs" / "**")
    assert ended.returncode == 1
    assert "The folder holds no JPEG" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert f"{ASTRONAUT}," in ended.stdout


def test_predict_draws_what_it_found_into_upright_copies(
    models_folder: Path, cache: Path, junk: Path, tmp_path: Path
) -> None:
    shown = pixels(ASTRONAUT)[:400]
    photograph = tmp_path / "turned.jpg"
    photograph.write_bytes(turned(shown, 6))
    into = tmp_path / "drawn" / "here"
    ended = predict(models_folder, cache, "--json", f"--annotate={into}", photograph, junk)
    assert ended.returncode == 1
    assert [path.name for path in into.iterdir()] == ["turned.annotated.jpg"]
    drawn = pixels(into / "turned.annotated.jpg")
    assert drawn.shape == shown.shape
    (face,) = json.loads(ended.stdout)[0]["prediction"]["faces"]
    changed = cv2.absdiff(drawn, shown).max(axis=2) > 60
    x, y, width, height = (face["box"][edge] for edge in ("x", "y", "width", "height"))
    for edge in (
        changed[y + height, x : x + width],
        changed[y : y + height, x],
        changed[y : y + height, x + width],
    ):
        assert np.mean(edge) > 0.5
    assert not changed[y + 10 : y + height - 10, x + 10 : x + width - 10].any()
    assert not changed[:, : x - 10].any()


def test_predict_does_not_draw_two_photographs_into_one(
    models_folder: Path, cache: Path, tmp_path: Path
) -> None:
    other = tmp_path / "astronaut.png"
    other.write_bytes(png(grey()))
    ended = predict(models_folder, cache, f"--annotate={tmp_path / 'drawn'}", ASTRONAUT, other)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "annotated under the same name" in ended.stderr
    assert not (tmp_path / "drawn").exists()


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder with two photographs, one of them deeper, a picture without faces, and a file that is no image."""
    folder = tmp_path / "album"
    (folder / "deeper").mkdir(parents=True)
    shutil.copy(ASTRONAUT, folder / "[bold]one.JPG")
    shutil.copy(GRACE_HOPPER, folder / "deeper/two.jpeg")
    (folder / "deeper/nobody.png").write_bytes(png(grey(90, 320, 240)))
    (folder / "deeper/broken.webp").write_bytes(b"this is no image")
    (folder / "notes.txt").write_text("nothing to see")
    return folder


def test_a_folder_is_read_with_all_that_is_in_it_and_what_fails_costs_nothing_else(
    models_folder: Path, cache: Path, album: Path, tmp_path: Path
) -> None:
    into = tmp_path / "drawn"
    ended = predict(models_folder, cache, "--json", f"--annotate={into}", album, tmp_path / "absent.jpg")
    assert ended.returncode == 1
    results = json.loads(ended.stdout)
    names = ["[bold]one.JPG", "deeper/broken.webp", "deeper/nobody.png", "deeper/two.jpeg", "../absent.jpg"]
    assert [Path(result["filename"]) for result in results] == [
        *(album / name for name in names[:-1]),
        tmp_path / "absent.jpg",
    ]
    assert [len(r["prediction"]["faces"]) if "prediction" in r else None for r in results] == [
        1,
        None,
        0,
        1,
        None,
    ]
    broken, absent = ended.stderr.splitlines()
    assert broken == f"{album}/deeper/broken.webp: {results[1]['error']}"
    assert absent == f"{tmp_path}/absent.jpg: The file cannot be read (No such file or directory)."
    drawn = sorted(str(path.relative_to(into)) for path in into.rglob("*.jpg"))
    assert drawn == ["[bold]one.annotated.jpg", "deeper/nobody.annotated.jpg", "deeper/two.annotated.jpg"]


def test_the_table_shows_names_as_they_are(models_folder: Path, cache: Path, album: Path) -> None:
    ended = predict(models_folder, cache, album / "[bold]one.JPG")
    assert f"{album}/[bold]one.JPG" in ended.stdout


def test_csv_has_a_line_for_each_face_and_for_what_has_none(
    models_folder: Path, cache: Path, album: Path, tmp_path: Path
) -> None:
    both = tmp_path / "both.png"
    both.write_bytes(png(side_by_side()))
    rows = list(csv.DictReader(predict(models_folder, cache, "--csv", both, album).stdout.splitlines()))
    names = [Path(row["filename"]).name for row in rows]
    assert names == ["both.png", "both.png", "[bold]one.JPG", "broken.webp", "nobody.png", "two.jpeg"]
    grace, eileen, alone, broken, nobody, _ = rows
    assert int(grace["x"]) > 512 > int(eileen["x"])
    for row in (grace, eileen, alone):
        assert (row["model"], row["detector"], row["error"]) == ("age_gender_B", "haar", "")
        assert float(row["age_low"]) <= float(row["age"]) <= float(row["age_high"])
        assert row["gender"] in ("female", "male")
        assert 0.5 <= float(row["gender_probability"]) <= 1
    assert (alone["image_width"], alone["image_height"]) == ("512", "512")
    assert "no image" in broken["error"]
    assert (broken["model"], broken["x"]) == ("", "")
    assert (nobody["model"], nobody["image_width"], nobody["x"], nobody["age"]) == (
        "age_gender_B",
        "320",
        "",
        "",
    )


def test_options_of_a_prediction_are_kept(models_folder: Path, cache: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.png"
    both.write_bytes(png(side_by_side()))
    (largest,) = json.loads(predict(models_folder, cache, "--json", "--max-faces=1", both).stdout)
    (face,) = largest["prediction"]["faces"]
    assert face["box"]["x"] > 512
    (none,) = json.loads(predict(models_folder, cache, "--json", "--min-confidence=1", both).stdout)
    assert none["prediction"]["faces"] == []
    for option in ("--max-faces=0", "--min-confidence=1.5"):
        assert predict(models_folder, cache, option, both).returncode == 2


def test_standard_input_is_a_photograph_too(models_folder: Path, cache: Path, tmp_path: Path) -> None:
    ended = predict(models_folder, cache, "--json", f"--annotate={tmp_path}", "-", stdin=ASTRONAUT)
    (result,) = json.loads(ended.stdout)
    assert (ended.returncode, result["filename"], len(result["prediction"]["faces"])) == (0, "-", 1)
    assert (tmp_path / "stdin.annotated.jpg").exists()


def test_a_service_can_be_asked_instead(server: Server, cache: Path, album: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    ended = predict(nowhere, cache, "--json", f"--url={server.url}", "--detector=haar", album)
    assert ended.returncode == 1
    first, broken, _, last = json.loads(ended.stdout)
    for result, photograph in ((first, ASTRONAUT), (last, GRACE_HOPPER)):
        served = server.predict(photograph.read_bytes(), detector="haar").json()
        assert without_timings(result["prediction"]) == without_timings(served)
    assert ended.stderr == f"{album}/deeper/broken.webp: {broken['error']}\n"
    assert broken["error"].endswith("Send a JPEG, PNG, WebP, BMP or AVIF file.")


def test_a_service_is_shown_the_key(bare_server: Server, cache: Path, keys: tuple[str, str]) -> None:
    ask = ("predict", f"--url={bare_server.url}", "--detector=none", ASTRONAUT)
    locked = run(cache, *ask)
    assert (locked.returncode, locked.stdout) == (1, "")
    assert locked.stderr.startswith("agegender: This service asks for a key")
    assert locked.stderr.count("\n") == 1
    assert run(cache, *ask, f"--api-key={keys[0]}").returncode == 0
    assert run(cache, *ask, AGEGENDER_API_KEY=keys[1]).returncode == 0


def test_the_end_of_the_line_that_held_a_key_is_no_part_of_it(
    bare_server: Server, cache: Path, keys: tuple[str, str]
) -> None:
    ask = ("predict", f"--url={bare_server.url}", "--detector=none", ASTRONAUT)
    assert run(cache, *ask, AGEGENDER_API_KEY=f"{keys[1]}\r\n").returncode == 0
    refused = run(cache, *ask, AGEGENDER_API_KEY="secret\nof two lines")
    assert refused.stderr == (
        "agegender: The API key holds characters that no header can: it must be one line of text.\n"
    )


def test_ctrl_c_does_not_wait_for_a_service_that_does_not_answer(cache: Path) -> None:
    # Where tests run in the background it is ignored, and by what they start too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with socket.create_server(("127.0.0.1", 0)) as service:
        service.settimeout(PATIENCE)
        try:
            waiting = subprocess.Popen(
                [AGEGENDER, "predict", f"--url=http://127.0.0.1:{service.getsockname()[1]}", ASTRONAUT],
                env=environment(cache),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        finally:
            signal.signal(signal.SIGINT, before)
        connection, _ = service.accept()
        with connection:
            connection.settimeout(PATIENCE)
            assert connection.recv(1)
            waiting.send_signal(signal.SIGINT)
            said, wrong = waiting.communicate(timeout=20)  # the service has a minute
    assert (waiting.returncode, said) == (130, b"")
    assert b"Traceback" not in wrong


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "localhost:8000",
            "The address of the service must be like http://localhost:8000, not 'localhost:8000'.",
        ),
        ("http://127.0.0.1:9", "The service at http://127.0.0.1:9/ cannot be reached "),
    ],
)
def test_a_service_that_is_not_there_is_one_sentence(cache: Path, url: str, said: str) -> None:
    ended = run(cache, "predict", f"--url={url}", ASTRONAUT, GRACE_HOPPER)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"agegender: {said}")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("files", "options", "shown"),
    [(12, [], True), (12, ["--json"], True), (2, [], False)],
    ids=["many", "many as JSON", "few"],
)
def test_a_terminal_shows_how_far_many_files_are(
    models_folder: Path, cache: Path, tmp_path: Path, files: int, options: list[str], shown: bool
) -> None:
    for number in range(files):
        (tmp_path / f"{number}.png").write_bytes(png(grey()))
    ours, theirs = os.openpty()
    ended = subprocess.run(
        [AGEGENDER, "predict", "--detector=none", *options, "."],
        cwd=tmp_path,
        env=environment(cache, AGEGENDER_MODELS=str(models_folder), TERM="xterm"),
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=PATIENCE,
        check=True,
    )
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # as the end of what a terminal was sent shows itself
        while more := os.read(ours, 2**16):
            seen += more
    os.close(ours)
    assert (f"{files}/{files}".encode() in seen) == shown
    assert ended.stdout.count(b".png") == files


def test_json_and_csv_at_once_are_refused(models_folder: Path, cache: Path) -> None:
    ended = predict(models_folder, cache, "--json", "--csv", ASTRONAUT)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "choose one of --json and --csv" in ended.stderr


def test_a_package_that_is_broken_is_one_sentence(models_folder: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    ended = predict(models_folder, cache, ASTRONAUT, PYTHONPATH=str(tmp_path))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "agegender: libGL.so.1: cannot open shared object file: run `agegender doctor`, which says what to do.\n"
    )


def test_a_package_that_the_command_line_is_made_of_is_one_sentence_too(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('numpy is broken')")
    ended = run(cache, "doctor", PYTHONPATH=str(tmp_path))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "agegender: numpy is broken: install this package anew, with all that it needs.\n"
    )


def test_models_lists_them_with_their_measured_figures(models_folder: Path, cache: Path) -> None:
    ended = run(cache, "models", AGEGENDER_MODELS=str(models_folder))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "age_gender_B *" in ended.stdout
    for model in ("age_gender_A", "age_gender_B"):
        (row,) = [line for line in ended.stdout.splitlines() if model in line]
        for figure in ("4.20 years", "94.0%", "2,100", "yes"):
            assert figure in row


def test_models_says_in_a_sentence_that_there_are_none(cache: Path, tmp_path: Path) -> None:
    ended = run(cache, "models", AGEGENDER_MODELS=str(tmp_path / "nowhere"))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("agegender: There is no models folder ")
    assert ended.stderr.count("\n") == 1


@needs_yunet
def test_a_detector_file_that_one_has_is_stored_and_then_used(models_folder: Path, cache: Path) -> None:
    ended = run(cache, "fetch-detector", "--from", YUNET)
    assert ended.returncode == 0
    stored = Path(ended.stdout.removeprefix("YuNet is at ").removesuffix("\n"))
    assert stored.is_relative_to(cache)
    assert stored.read_bytes() == YUNET.read_bytes()
    # It is there: nothing is fetched, and there would be no way.
    again = run(cache, "fetch-detector", **OFFLINE)
    assert (again.returncode, again.stdout) == (0, ended.stdout)
    (answer,) = json.loads(predict(models_folder, cache, "--json", ASTRONAUT).stdout)
    assert answer["prediction"]["detector"] == "yunet"
    assert answer["prediction"]["faces"][0]["landmarks"] is not None


def test_another_file_is_refused_as_the_detector(cache: Path) -> None:
    ended = run(cache, "fetch-detector", "--from", ASTRONAUT)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"agegender: {ASTRONAUT} is not the published YuNet")
    assert ended.stderr.count("\n") == 1
    assert not (cache / "agegender").exists()


PROXY = "http://127.0.0.1:9"  # nobody listens there
OFFLINE = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"), PROXY) | {
    "NO_PROXY": "",
    "no_proxy": "",
}


def test_offline_the_detector_cannot_be_fetched_and_one_line_says_what_then(cache: Path) -> None:
    ended = run(cache, "fetch-detector", **OFFLINE)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert "YuNet could not be downloaded from https://" in line
    assert "it cannot be reached from here; the service goes on with Haar" in line
    assert "--from PATH" in line
    assert not (cache / "agegender").exists()


def test_help_of_serve_lists_every_setting_with_its_environment_variable(cache: Path) -> None:
    ended = run(cache, "serve", "--help")
    assert ended.returncode == 0
    assert Settings.model_fields
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')} " in ended.stdout
        assert f"AGEGENDER_{name.upper()}]" in ended.stdout


def test_a_setting_in_the_environment_that_is_invalid_is_one_sentence(cache: Path) -> None:
    ended = run(cache, "models", AGEGENDER_QUEUE_TIMEOUT="soon")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(
        "agegender: The setting AGEGENDER_QUEUE_TIMEOUT (--queue-timeout) is invalid: "
    )
    assert ended.stderr.count("\n") == 1
