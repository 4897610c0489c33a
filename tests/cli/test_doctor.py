"""`agegender doctor`: what it finds, and what it advises."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest
from agegender.cli import doctor
from agegender.settings import Settings
from helpers import YUNET, agegender, free_port, needs_yunet
from tiny_models import put_model


@pytest.fixture(autouse=True)
def no_yunet(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache))


def examine(models: Path, **settings: Any) -> list[doctor.Finding]:
    return list(doctor.examine(Settings(**{"models": models, "port": free_port(), **settings})))


def found(findings: list[doctor.Finding], text: str) -> doctor.Finding:
    """The one finding that holds `text`."""
    (finding,) = [finding for finding in findings if text in finding.text]
    return finding


def test_where_nothing_is_wrong_it_lists_what_there_is(models_folder: Path, empty_cache: Path) -> None:
    settings = {"AGEGENDER_MODELS": str(models_folder), "AGEGENDER_PORT": str(free_port())}
    ended = agegender(empty_cache, "doctor", **settings)
    assert (ended.returncode, ended.stderr) == (0, "")
    for line in (
        "ok    agegender 0.",
        "ok    Python 3.",
        r"ok    numpy \d.*onnxruntime \d.*fastapi \d.*opencv-python-headless \d",
        "ok    model age_gender_A in ",
        r"ok    model age_gender_B \(the default\) in ",
        "note  YuNet.* is not installed.* run `agegender fetch-detector`.",
        r"ok    a prediction with detector haar takes \d+ ms",
        "ok    port .* is free",
    ):
        assert re.search(f"^{line}", ended.stdout, re.MULTILINE), line


@needs_yunet
def test_yunet_is_timed_where_it_is_installed(models_folder: Path) -> None:
    findings = examine(models_folder, yunet_path=YUNET)
    assert found(findings, "YuNet in") == ("ok", f"YuNet in {YUNET} is intact")
    assert found(findings, "detector yunet takes").state == "ok"


def test_models_that_cannot_be_served_are_wrong(tmp_path: Path) -> None:
    assert found(examine(tmp_path / "nowhere"), "There is no models folder").state == "wrong"

    put_model(tmp_path, "age_gender_A")
    findings = examine(tmp_path, default_model="age_gender_B")
    state, text = found(findings, "The default model age_gender_B is not there")
    assert state == "wrong"
    assert "AGEGENDER_DEFAULT_MODEL" in text
    assert not any("a prediction" in finding.text for finding in findings)

    with (tmp_path / "age_gender_A.onnx").open("ab") as file:
        file.write(b"\0")
    findings = examine(tmp_path, yunet_path=Path("nowhere.onnx"))
    assert found(findings, "is not the file that age_gender_A.json describes").state == "wrong"
    assert found(findings, "YuNet's file nowhere.onnx cannot be read").state == "wrong"


def test_a_port_in_use_is_a_note_since_this_service_may_use_it(models_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        findings = examine(models_folder, metrics_port=port)
    state, text = found(findings, f"port {port} (Address already in use)")
    assert state == "note"
    assert "--metrics-port (AGEGENDER_METRICS_PORT)" in text
    assert text.endswith("If this service uses it, all is well.")
    assert found(examine(models_folder, host="nowhere.invalid"), "is unknown").state == "wrong"


def test_a_broken_package_is_a_finding_and_the_exit_code_is_1(
    models_folder: Path, empty_cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    (tmp_path / "opentelemetry.py").write_text("raise ImportError")
    settings = {"AGEGENDER_MODELS": str(models_folder), "AGEGENDER_TRACES": "true"}
    ended = agegender(empty_cache, "doctor", **settings, PYTHONPATH=str(tmp_path))
    assert ended.returncode == 1
    assert re.fullmatch(r"agegender: \d problems found\.\n", ended.stderr)
    assert (
        "wrong opencv-python-headless cannot be imported (libGL.so.1: cannot open shared object file): reinstall it "
        "with `python -m pip install --force-reinstall opencv-python-headless`.\n"
    ) in ended.stdout
    assert "wrong opentelemetry-exporter-otlp-proto-http cannot be imported (" in ended.stdout
