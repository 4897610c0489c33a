"""What keeps the service from starting is one sentence that says what to do."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from agegender.server import CannotListen, bind
from helpers import agegender
from tiny_models import put_model


def test_the_sentence_is_in_the_log_and_the_exit_code_is_not_0(tmp_path: Path, empty_cache: Path) -> None:
    put_model(tmp_path, "age_gender_B")
    (tmp_path / "age_gender_B.onnx").unlink()
    ended = agegender(empty_cache, "serve", "--port=0", "--workers=1", f"--models={tmp_path}")
    assert ended.returncode != 0
    assert ended.stdout == ""
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    (sentence, *_) = [line["message"] for line in lines if line["level"] == "error"]
    assert sentence.startswith(f"{tmp_path}/age_gender_B.onnx cannot be read (No such file or directory):")


def test_an_invalid_setting_is_named(empty_cache: Path) -> None:
    ended = agegender(empty_cache, "serve", "--rate-limit=often")
    assert ended.returncode == 1
    assert ended.stderr.startswith("agegender: The setting AGEGENDER_RATE_LIMIT (--rate-limit) is invalid: ")
    assert ended.stderr.endswith("per second, minute, hour or day, such as 60/minute.\n")


def test_a_port_that_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen) as raised:
            bind("127.0.0.1", port, "port")
    assert str(raised.value) == (
        f"The service cannot listen on host 127.0.0.1, port {port} (Address already in use): "
        "stop the program that uses the port, or choose another port with --port (AGEGENDER_PORT) or another "
        "host with --host (AGEGENDER_HOST)."
    )


@pytest.mark.parametrize(
    ("host", "said"),
    [
        # 192.0.2.0/24 is kept for documentation: no machine has an address in it.
        (
            "192.0.2.1",
            "The service cannot listen on host 192.0.2.1, port 0 (Cannot assign requested address): ",
        ),
        ("no..name", "The host no..name is unknown ("),
        ("nowhere.invalid", "The host nowhere.invalid is unknown ("),
    ],
)
def test_a_host_that_is_not_this_machine(host: str, said: str) -> None:
    with pytest.raises(CannotListen) as raised:
        bind(host, 0, "port")
    assert str(raised.value).startswith(said)
