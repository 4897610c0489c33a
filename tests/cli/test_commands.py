"""`agegender` as a command: what it prints, where, and how it ends."""

from __future__ import annotations

import contextlib
import csv
import functools
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pytest
import tenacity
from agegender.cli import commands
from agegender.settings import Settings
from helpers import (
    AGEGENDER,
    ASTRONAUT,
    GRACE_HOPPER,
    PATIENCE,
    YUNET,
    Server,
    agegender,
    environment,
    grey,
    needs_yunet,
    pixels,
    png,
    side_by_side,
    turned,
    web_server,
    without_timings,
)
from typer.testing import CliRunner


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def junk(tmp_path: Path) -> Path:
    path = tmp_path / "junk.jpg"
    path.write_bytes(b"this is no image")
    return path


Ended = subprocess.CompletedProcess[str]
Predict = Callable[..., Ended]


def run(cache: Path, *arguments: object, stdin: bytes = b"", **extra: str) -> Ended:
    """Run the command line in this process."""
    texts = [str(each) for each in arguments]
    ended = CliRunner().invoke(commands.app, texts, stdin, {"XDG_CACHE_HOME": str(cache), **extra})
    assert ended.exception is None or isinstance(ended.exception, SystemExit)
    return Ended(texts, ended.exit_code, ended.stdout, ended.stderr)


@pytest.fixture
def predict(models_folder: Path, cache: Path) -> Predict:
    """Calls `agegender predict` with the models of `models_folder`."""
    return functools.partial(run, cache, "predict", AGEGENDER_MODELS=str(models_folder))


def on_terminal(width: int, cache: Path, *arguments: object, **extra: str) -> tuple[str, str]:
    """Run it with a terminal for standard error, and, with a `width`, for its output; return both."""
    ours, theirs = os.openpty()
    ended = subprocess.run(
        [AGEGENDER, *map(str, arguments)],
        env=environment(cache, TERM="xterm", **({"COLUMNS": str(width)} if width else {}), **extra),
        stdout=theirs if width else subprocess.PIPE,
        stderr=theirs,
        timeout=PATIENCE,
        check=True,
    )
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # the end of what was sent to a terminal
        while more := os.read(ours, 2**16):
            seen += more
    os.close(ours)
    return (ended.stdout or b"").decode(), re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())


def one_sentence(ended: Ended) -> str:
    """The only line of a command that failed without an answer."""
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("agegender: ")
    assert ended.stderr.count("\n") == 1
    return ended.stderr.removeprefix("agegender: ").rstrip("\n")


def test_it_prints_its_version(cache: Path) -> None:
    ended = agegender(cache, "--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{version('agegender')}\n", "")


# predict: what it prints


def test_predict_prints_a_table_and_goes_on_after_a_file_that_is_not_an_image(
    predict: Predict, junk: Path, tmp_path: Path
) -> None:
    nobody, missing = tmp_path / "nobody.png", tmp_path / "missing.jpg"
    nobody.write_bytes(png(grey(90, 320, 240)))
    ended = predict(ASTRONAUT, junk, nobody, missing, GRACE_HOPPER)
    assert ended.returncode == 1
    heading, _, *lines = ended.stdout.splitlines()
    assert re.split("  +", heading.strip()) == [
        "image",
        "age",
        "gender",
        "box (x, y, w, h)",
        "found by",
        "warnings",
    ]
    face, _, other_face = (re.split("  +", line.strip()) for line in lines)
    for (name, age, gender, box, found_by, *_), path in ((face, ASTRONAUT), (other_face, GRACE_HOPPER)):
        assert name == str(path)
        assert re.fullmatch(r"\d+\.\d \(\d+-\d+\)", age)
        assert re.fullmatch(r"(fe)?male \d+%", gender)
        assert re.fullmatch(r"\d+, \d+, \d+, \d+", box)
        assert re.fullmatch(r"haar \d+%", found_by)
    assert re.split("  +", lines[1].strip()) == [str(nobody), "no face found", "haar"]
    first, second = ended.stderr.splitlines()
    assert first.startswith(f"{junk}: ")
    assert second == f"{missing}: The file cannot be read (No such file or directory)."


def test_a_path_is_never_cut(models_folder: Path, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / ("deep" * 20) / f"[bold]{'long' * 20}.png"
    path.parent.mkdir()
    path.write_bytes(png(grey()))
    options = ("predict", "--detector=none", path)
    in_pipe, _ = on_terminal(0, cache, *options, AGEGENDER_MODELS=str(models_folder))
    assert str(path) in in_pipe
    _, shown = on_terminal(80, cache, *options, AGEGENDER_MODELS=str(models_folder))
    lines = [line.split("  ")[0].strip() for line in shown.splitlines()]
    assert str(path) in "".join(lines)
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("by_service", [False, True], ids=["here", "by a service"])
def test_predict_prints_the_answers_of_the_service_as_json(
    predict: Predict, server: Server, album: Path, by_service: bool
) -> None:
    there = (f"--url={server.url}",) if by_service else ()
    environment = {"AGEGENDER_MODELS": "nowhere"} if by_service else {}
    options = ("--json", "--detector=haar", "--model=age_gender_A")
    ended = predict(*options, *there, album, **environment)
    assert ended.returncode == 1
    first, broken, _, last = json.loads(ended.stdout)
    for result, photograph in ((first, "[bold]one.JPG"), (last, "deeper/two.jpeg")):
        image = (album / photograph).read_bytes()
        served = server.predict(image, detector="haar", model="age_gender_A").json()
        assert len(served["faces"]) == 1
        assert result == {"filename": str(album / photograph), "prediction": result["prediction"]}
        assert without_timings(result["prediction"]) == without_timings(served)
    assert broken == {"filename": f"{album}/deeper/broken.webp", "error": broken["error"]}
    assert "Send a JPEG" in broken["error"]
    assert ended.stderr.startswith(f"{broken['filename']}: {broken['error']}\n")


def test_csv_has_a_line_for_each_face_and_for_each_image_without_one(
    predict: Predict, album: Path, tmp_path: Path
) -> None:
    both = tmp_path / "both.png"
    both.write_bytes(png(side_by_side()))
    rows = list(csv.DictReader(predict("--csv", both, album).stdout.splitlines()))
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
    assert "Send a JPEG" in broken["error"]
    assert (broken["model"], broken["x"]) == ("", "")
    assert [nobody[key] for key in ("model", "image_width", "x", "age")] == ["age_gender_B", "320", "", ""]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device on which nothing can be written")
@pytest.mark.parametrize("form", ["--json", "--max-faces=1"])
def test_answers_that_cannot_be_written_are_a_sentence(models_folder: Path, cache: Path, form: str) -> None:
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
    sentence = "agegender: The answers cannot be written (No space left on device).\n"
    assert (ended.returncode, ended.stderr) == (1, sentence)


def test_a_terminal_shows_the_progress(models_folder: Path, cache: Path, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(grey()))
    arguments = ("predict", "--detector=none", "--json", tmp_path)
    printed, seen = on_terminal(0, cache, *arguments, AGEGENDER_MODELS=str(models_folder))
    assert "3/3" in seen
    assert printed.count(".png") == 3


# predict: what it reads


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder with two photographs, one of them deeper, a picture without faces, and files that are not images."""
    folder = tmp_path / "album"
    (folder / "deeper").mkdir(parents=True)
    shutil.copy(ASTRONAUT, folder / "[bold]one.JPG")
    shutil.copy(GRACE_HOPPER, folder / "deeper/two.jpeg")
    (folder / "deeper/nobody.png").write_bytes(png(grey(90, 320, 240)))
    (folder / "deeper/broken.webp").write_bytes(b"this is no image")
    (folder / "notes.txt").write_text("nothing to see")
    return folder


def test_a_folder_is_read_with_everything_in_it_and_a_failure_costs_nothing_else(
    predict: Predict, album: Path, tmp_path: Path
) -> None:
    into = tmp_path / "drawn"
    ended = predict("--json", f"--annotate={into}", album, tmp_path / "absent.jpg")
    assert ended.returncode == 1
    results = json.loads(ended.stdout)
    names = ["[bold]one.JPG", "deeper/broken.webp", "deeper/nobody.png", "deeper/two.jpeg", "../absent.jpg"]
    assert [os.path.relpath(result["filename"], album) for result in results] == names
    faces = [len(each["prediction"]["faces"]) if "prediction" in each else None for each in results]
    assert faces == [1, None, 0, 1, None]
    assert ended.stderr.splitlines() == [
        f"{album}/deeper/broken.webp: {results[1]['error']}",
        f"{tmp_path}/absent.jpg: The file cannot be read (No such file or directory).",
        f"{album}: some files were left out (1 .txt).",
    ]
    drawn = sorted(str(path.relative_to(into)) for path in into.rglob("*.jpg"))
    assert drawn == ["[bold]one.annotated.jpg", "deeper/nobody.annotated.jpg", "deeper/two.annotated.jpg"]


def test_files_left_out_do_not_make_the_command_fail(predict: Predict, album: Path) -> None:
    (album / "deeper/broken.webp").unlink()
    ended = predict("--detector=none", album)
    assert (ended.returncode, ended.stderr.count("left out")) == (0, 1)


def test_options_of_a_prediction_are_kept(predict: Predict, tmp_path: Path) -> None:
    both = tmp_path / "both.png"
    both.write_bytes(png(side_by_side()))
    (largest,) = json.loads(predict("--json", "--max-faces=1", both).stdout)
    (face,) = largest["prediction"]["faces"]
    assert face["box"]["x"] > 512
    (none,) = json.loads(predict("--json", "--min-confidence=1", both).stdout)
    assert none["prediction"]["faces"] == []
    (sure,) = json.loads(predict("--json", "--coverage=0.95", "--distribution", ASTRONAUT).stdout)
    age = sure["prediction"]["faces"][0]["age"]
    assert (age["coverage"], len(age["distribution"])) == (0.95, 101)
    (row,) = csv.DictReader(
        predict("--csv", "--coverage=0.95", "--distribution", ASTRONAUT).stdout.splitlines()
    )
    assert (row["age_low"], row["age_coverage"]) == (str(age["low"]), "0.95")
    assert list(map(float, row["age_distribution"].split())) == age["distribution"]
    for option in ("--max-faces=0", "--min-confidence=1.5", "--coverage=1"):
        assert predict(option, both).returncode == 2
    both_forms = predict("--json", "--csv", ASTRONAUT)
    assert (both_forms.returncode, both_forms.stdout) == (2, "")


def test_standard_input_is_a_photograph_too(models_folder: Path, cache: Path, tmp_path: Path) -> None:
    options = ("predict", "--json", f"--annotate={tmp_path}", "-")
    photograph = ASTRONAUT.read_bytes()
    ended = run(cache, *options, stdin=photograph, AGEGENDER_MODELS=str(models_folder))
    (result,) = json.loads(ended.stdout)
    assert (ended.returncode, result["filename"], len(result["prediction"]["faces"])) == (0, "-", 1)
    assert (tmp_path / "stdin.annotated.jpg").exists()


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """The address of a web server: /moved leads to a photograph, /loop to itself, and /endless does not end."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        target = {"/moved": "/album/astronaut.jpg", "/loop": "/loop"}.get(request.path)
        request.send_response(302 if target else 404 if request.path == "/missing.jpg" else 200)
        if target:
            request.send_header("Location", target)
        request.end_headers()
        if request.path.startswith("/album/astronaut.jpg"):
            request.wfile.write(ASTRONAUT.read_bytes())
        while request.path == "/endless":
            request.wfile.write(bytes(2**16))

    with web_server(answer) as address:
        yield address


def test_addresses_are_read_too(predict: Predict, web: str, tmp_path: Path) -> None:
    addresses = [f"{web}/album/astronaut.jpg?size=large", f"{web}/moved"]
    ended = predict("--json", f"--annotate={tmp_path}", *addresses)
    assert (ended.returncode, ended.stderr) == (0, "")
    (file,) = json.loads(predict("--json", ASTRONAUT).stdout)
    for result, address in zip(json.loads(ended.stdout), addresses, strict=True):
        assert result["filename"] == address
        assert without_timings(result["prediction"]) == without_timings(file["prediction"])
    drawn = {path.name for path in tmp_path.glob("*.jpg")}
    assert drawn == {"astronaut.annotated.jpg", "moved.annotated.jpg"}


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/missing.jpg", "The server answered 404 Not Found."),
        ("/loop", "The address cannot be read (Exceeded maximum allowed redirects)."),
        ("/endless", "The file is larger than 1000000 bytes: "),
        ("http://no..name/x.jpg", "The address cannot be read ("),
        ("http://[/x.jpg", "The address cannot be read (Invalid IPv6 URL)."),
    ],
)
def test_an_address_without_a_photograph_costs_no_other_its_answer(
    predict: Predict, web: str, path: str, problem: str
) -> None:
    address = web + path if path.startswith("/") else path
    ended = predict("--json", address, ASTRONAUT, AGEGENDER_MAX_BYTES="1000000")
    assert ended.returncode == 1
    wrong, right = json.loads(ended.stdout)
    assert wrong["filename"] == address
    assert wrong["error"].startswith(problem)
    assert len(right["prediction"]["faces"]) == 1


# predict: what it draws


def test_predict_draws_faces_into_upright_copies(predict: Predict, junk: Path, tmp_path: Path) -> None:
    shown = pixels(ASTRONAUT)[:400]
    photograph = tmp_path / "turned.jpg"
    photograph.write_bytes(turned(shown, 6))
    into = tmp_path / "drawn" / "here"
    ended = predict("--json", f"--annotate={into}", photograph, junk)
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


def test_a_photograph_too_wide_to_be_drawn_is_a_problem_and_the_others_are_drawn(
    predict: Predict, tmp_path: Path
) -> None:
    wide = tmp_path / "wide :smile:.png"
    wide.write_bytes(png(grey(90, 65_501, 64)))
    into = tmp_path / "drawn"
    ended = predict(f"--annotate={into}", wide, ASTRONAUT)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"{wide}: It cannot be annotated: it has more pixels a side than a JPEG")
    assert [path.name for path in into.iterdir()] == ["astronaut.annotated.jpg"]


def test_a_name_too_long_for_a_copy_is_a_problem_and_the_others_are_drawn(
    predict: Predict, tmp_path: Path
) -> None:
    long = tmp_path / f"{'a' * 250}.jpg"
    shutil.copyfile(ASTRONAUT, long)
    into = tmp_path / "drawn"
    ended = predict(f"--annotate={into}", long, ASTRONAUT)
    assert ended.returncode == 1
    assert ended.stderr == f"{long}: It cannot be annotated: the name of the copy would be too long.\n"
    assert [path.name for path in into.iterdir()] == ["astronaut.annotated.jpg"]


def test_where_pictures_cannot_be_written_a_sentence_says_so(predict: Predict, junk: Path) -> None:
    sentence = one_sentence(predict(f"--annotate={junk}", ASTRONAUT))
    assert sentence == f"Annotated photographs cannot be written into {junk} (File exists)."


def test_predict_does_not_draw_two_photographs_into_one(predict: Predict, tmp_path: Path) -> None:
    other = tmp_path / "astronaut.png"
    other.write_bytes(png(grey()))
    ended = predict(f"--annotate={tmp_path / 'drawn'}", ASTRONAUT, other)
    assert "would have the same name" in one_sentence(ended)
    assert not (tmp_path / "drawn").exists()


# predict: what stops it


PROXY = "http://127.0.0.1:9"  # nobody listens there
OFFLINE = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"), PROXY) | {
    "NO_PROXY": "",
    "no_proxy": "",
}
BOTH = (ASTRONAUT, GRACE_HOPPER)


@pytest.mark.parametrize(
    ("arguments", "env", "sentence"),
    [
        (("predict", "--model=Z", *BOTH), {}, r"There is no such model; there are: age_gender_A, age_gender_B\."),
        (("predict", "--detector=yunet", *BOTH), {}, "The detector yunet is not installed here: use auto or haar"),
        (("predict", "--url=localhost:8000", *BOTH), {}, "The URL of the service must be like http://localhost"),
        (("predict", f"--url={PROXY}", *BOTH), {}, f"The service at {PROXY}/ cannot be reached "),
        (("models",), {"AGEGENDER_MODELS": "nowhere"}, "There is no models folder "),
        (("models",), {"AGEGENDER_QUEUE_TIMEOUT": "soon"}, r"The setting AGEGENDER_QUEUE_TIMEOUT \(--queue-timeout\)"),
        (("fetch-detector",), OFFLINE, "YuNet could not be downloaded from https://.* Haar.* --from PATH"),
    ],
)  # fmt: skip
def test_what_no_image_can_change_is_one_sentence(
    models_folder: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
    env: dict[str, str],
    sentence: str,
) -> None:
    monkeypatch.setattr("agegender.client._BACKOFF", tenacity.wait_none())
    ended = run(cache, *arguments, **{"AGEGENDER_MODELS": str(models_folder), **env})
    assert re.match(sentence, one_sentence(ended))
    assert not (cache / "agegender").exists()


def test_a_key_opens_the_service(bare_server: Server, cache: Path, keys: tuple[str, str]) -> None:
    options = ("predict", f"--url={bare_server.url}", "--detector=none", ASTRONAUT)
    assert one_sentence(run(cache, *options)).startswith("This service needs an API key")
    assert run(cache, *options, f"--api-key={keys[0]}").returncode == 0
    assert run(cache, *options, AGEGENDER_API_KEY=f"{keys[1]}\r\n").returncode == 0


@pytest.mark.parametrize("by", ["--url={}", "{}/photo.jpg"])
def test_ctrl_c_does_not_wait_for_a_server_that_does_not_answer(
    models_folder: Path, cache: Path, by: str
) -> None:
    # Where tests run in the background, SIGINT is ignored, also by the processes that they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        try:
            waiting = subprocess.Popen(
                [AGEGENDER, "predict", by.format(f"http://127.0.0.1:{server.getsockname()[1]}"), ASTRONAUT],
                env=environment(cache, AGEGENDER_MODELS=str(models_folder)),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        finally:
            signal.signal(signal.SIGINT, before)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(PATIENCE)
            assert connection.recv(1)
            waiting.send_signal(signal.SIGINT)
            printed, wrong = waiting.communicate(timeout=20)  # the server has longer
    assert (waiting.returncode, printed) == (130, b"")
    assert b"Traceback" not in wrong


@pytest.mark.parametrize(("module", "command"), [("cv2", "predict"), ("numpy", "doctor")])
def test_a_broken_package_is_one_sentence(cache: Path, tmp_path: Path, module: str, command: str) -> None:
    (tmp_path / f"{module}.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    arguments = [command] if command == "doctor" else [command, ASTRONAUT]
    sentence = one_sentence(agegender(cache, *arguments, PYTHONPATH=str(tmp_path)))
    assert sentence.startswith("libGL.so.1: cannot open shared object file: run `agegender doctor`")


# The other commands


def test_models_lists_them_with_their_measured_figures(models_folder: Path, cache: Path) -> None:
    ended = run(cache, "models", AGEGENDER_MODELS=str(models_folder))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "age_gender_B *" in ended.stdout
    for model in ("age_gender_A", "age_gender_B"):
        (row,) = [line for line in ended.stdout.splitlines() if model in line]
        for figure in ("4.20 years", "94.0%", "2,100"):
            assert figure in row


@needs_yunet
def test_a_detector_file_of_the_user_is_stored_and_then_used(predict: Predict, cache: Path) -> None:
    ended = run(cache, "fetch-detector", "--from", YUNET)
    assert ended.returncode == 0
    stored = Path(ended.stdout.removeprefix("YuNet is at ").removesuffix("\n"))
    assert stored.is_relative_to(cache)
    assert stored.read_bytes() == YUNET.read_bytes()
    again = run(cache, "fetch-detector", **OFFLINE)  # fetches nothing
    assert (again.returncode, again.stdout) == (0, ended.stdout)
    (answer,) = json.loads(predict("--json", ASTRONAUT).stdout)
    assert answer["prediction"]["detector"] == "yunet"
    assert answer["prediction"]["faces"][0]["landmarks"] is not None


def test_help_of_serve_lists_every_setting_with_its_environment_variable(cache: Path) -> None:
    ended = agegender(cache, "serve", "--help", COLUMNS="200")
    assert ended.returncode == 0
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')} " in ended.stdout
        assert f"AGEGENDER_{name.upper()}]" in ended.stdout
    assert ended.stdout.count("true|false") == 2  # --traces and --page, which need one of them
