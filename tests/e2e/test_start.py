"""What keeps the service from starting, said in one sentence."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import AGEGENDER, ASTRONAUT, PATIENCE, environment
from tiny_models import put_model


def fail_to_start(cache: Path, *options: str, **extra: str) -> str:
    """Run `agegender serve` with those options, which must end it; the sentence that says why."""
    ended = subprocess.run(
        [AGEGENDER, "serve", "--port=0", "--workers=1", *options],
        env=environment(cache, **extra),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode not in (0, None)
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    if not ended.stderr.startswith("{"):  # before there is a log
        return ended.stderr.removeprefix("agegender: ").removesuffix("\n")
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    (sentence, *_) = [line["message"] for line in lines if line["level"] == "error"]
    return str(sentence)


def nothing(_: Path) -> None:
    pass


def half_a_model(folder: Path) -> None:
    put_model(folder, "age_gender_B")
    (folder / "age_gender_B.onnx").unlink()


def changed_model(folder: Path) -> None:
    put_model(folder, "age_gender_B")
    with (folder / "age_gender_B.onnx").open("ab") as file:
        file.write(b"\0")


def no_model(folder: Path) -> None:
    put_model(folder, "age_gender_B", b"this is no network")


def no_metadata(folder: Path) -> None:
    put_model(folder, "age_gender_B")
    (folder / "age_gender_B.json").write_text("{")


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (nothing, "The models folder {} is empty: put a model (ID.onnx and ID.json) there."),
        (half_a_model, "{}/age_gender_B.onnx is missing, though age_gender_B.json describes it:"),
        (changed_model, "{}/age_gender_B.onnx is not the file that age_gender_B.json describes"),
        (no_model, "{}/age_gender_B.onnx is not a model that ONNX Runtime can run: export the model anew."),
        (no_metadata, "{}/age_gender_B.json is not valid metadata"),
    ],
    ids=["empty", "half a model", "changed", "no model", "no metadata"],
)
def test_a_models_folder_that_cannot_be_served(
    tmp_path: Path, empty_cache: Path, prepare: Callable[[Path], None], said: str
) -> None:
    prepare(tmp_path)
    assert fail_to_start(empty_cache, f"--models={tmp_path}").startswith(said.format(tmp_path))


def test_a_models_folder_that_is_not_there(tmp_path: Path, empty_cache: Path) -> None:
    said = fail_to_start(empty_cache, AGEGENDER_MODELS=str(tmp_path / "nowhere"))
    assert said == (
        f"There is no models folder {tmp_path}/nowhere: name the one that holds the models (ID.onnx and ID.json each) "
        "by --models or AGEGENDER_MODELS."
    )


def test_a_default_model_that_is_not_there(models_folder: Path, empty_cache: Path) -> None:
    said = fail_to_start(empty_cache, f"--models={models_folder}", "--default-model=age_gender_Z")
    assert "default model age_gender_Z" in said
    assert "age_gender_A, age_gender_B" in said
    assert "--default-model" in said


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (str(ASTRONAUT), " is not the published YuNet (its SHA-256 differs) and was refused:"),
        (
            "nowhere.onnx",
            "YuNet's file nowhere.onnx cannot be read (No such file or directory): check its path and rights.",
        ),
    ],
    ids=["another file", "no file"],
)
def test_a_yunet_file_that_is_not_the_published_one(
    models_folder: Path, empty_cache: Path, path: str, said: str
) -> None:
    assert said in fail_to_start(empty_cache, f"--models={models_folder}", f"--yunet-path={path}")


@pytest.mark.parametrize(
    ("option", "variable"),
    [
        ("--workers=0", {}),
        ("--queue-size=many", {}),
        ("", {"AGEGENDER_MAX_IMAGE_MEMORY": "-1"}),
        ("--port=70000", {}),
    ],
)
def test_an_invalid_setting_is_named(empty_cache: Path, option: str, variable: dict[str, str]) -> None:
    said = fail_to_start(empty_cache, *([option] if option else []), **variable)
    name = option.partition("=")[0] or "--max-pixels"
    assert said.startswith(
        f"The setting AGEGENDER_{name[2:].replace('-', '_').upper()} ({name}) is invalid: "
    )
    assert said.endswith(".")


def test_a_rate_limit_that_is_none_is_explained(empty_cache: Path) -> None:
    assert fail_to_start(empty_cache, "--rate-limit=often") == (
        "The setting AGEGENDER_RATE_LIMIT (--rate-limit) is invalid: Input should be a number of requests per "
        "second, minute, hour or day, such as 60/minute."
    )


@pytest.mark.parametrize(
    ("option", "named"),
    [("--port", "--port (AGEGENDER_PORT)"), ("--metrics-port", "--metrics-port (AGEGENDER_METRICS_PORT)")],
)
def test_a_port_that_is_in_use(models_folder: Path, empty_cache: Path, option: str, named: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = fail_to_start(empty_cache, f"--models={models_folder}", f"{option}={port}")
    assert said == (
        f"The service cannot listen on host 127.0.0.1, port {port} (Address already in use): "
        f"stop what uses it, or choose another by {named} or --host (AGEGENDER_HOST)."
    )


def test_one_port_for_two_things(empty_cache: Path) -> None:
    assert fail_to_start(empty_cache, "--port=8123", "--metrics-port=8123") == (
        "The setting AGEGENDER_METRICS_PORT (--metrics-port) is invalid: "
        "Input should be another port than AGEGENDER_PORT."
    )


@pytest.mark.parametrize(
    ("host", "why"),
    [
        # 192.0.2.0/24 is kept for documentation: no machine has an address in it.
        ("192.0.2.1", "Cannot assign requested address"),
        ("no..name", "encoding with 'idna' codec failed"),
    ],
)
def test_a_host_that_is_not_this_machine(models_folder: Path, empty_cache: Path, host: str, why: str) -> None:
    said = fail_to_start(empty_cache, f"--models={models_folder}", f"--host={host}")
    assert said.startswith(f"The service cannot listen on host {host}, port 0 ({why}")
