"""`agegender` as a command: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import (
    AGEGENDER,
    ASTRONAUT,
    GRACE_HOPPER,
    PATIENCE,
    YUNET,
    Server,
    environment,
    grey,
    needs_yunet,
    pixels,
    png,
    turned,
    without_timings,
)

from app.settings import Settings


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def junk(tmp_path: Path) -> Path:
    path = tmp_path / "junk.jpg"
    path.write_bytes(b"this is no image")
    return path


def run(cache: Path, *arguments: object, **extra: str) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        [AGEGENDER, *map(str, arguments)],
        env=environment(cache, COLUMNS="200", **extra),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "Traceback" not in ended.stderr
    return ended


def predict(models: Path, cache: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return run(cache, "predict", *arguments, AGEGENDER_MODELS=str(models))


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
        "agegender: the setting AGEGENDER_QUEUE_TIMEOUT (--queue-timeout) is invalid: "
    )
    assert ended.stderr.count("\n") == 1
