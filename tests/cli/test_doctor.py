"""`agegender doctor`: what it finds, and what it says to do."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
from agegender import cores
from agegender.cli import doctor
from helpers import AGEGENDER, PATIENCE, YUNET, Server, environment, needs_yunet, serving
from tiny_models import put_model


def examine(cache: Path, models: Path, **extra: str) -> tuple[int, list[tuple[str, str]]]:
    """The exit code, and each finding as its state and its text."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    ended = subprocess.run(
        [AGEGENDER, "doctor"],
        env=environment(cache, **{"AGEGENDER_MODELS": str(models), "AGEGENDER_PORT": port, **extra}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "Traceback" not in ended.stderr
    findings = [tuple(line.split(maxsplit=1)) for line in ended.stdout.splitlines()]
    wrong = sum(state == "wrong" for state, _ in findings)
    assert ended.returncode == (wrong > 0)
    assert ended.stderr == (
        "" if not wrong else f"agegender: {wrong} thing{'s are' if wrong > 1 else ' is'} wrong.\n"
    )
    return ended.returncode, findings  # type: ignore[return-value]


def found(findings: list[tuple[str, str]], text: str) -> tuple[str, str]:
    """The one finding that holds `text`."""
    (finding,) = [(state, said) for state, said in findings if text in said]
    return finding


def test_where_all_is_well_it_says_what_there_is(models_folder: Path, empty_cache: Path) -> None:
    code, findings = examine(empty_cache, models_folder)
    assert code == 0
    assert found(findings, "agegender 0.")[0] == found(findings, "Python 3.")[0] == "ok"
    state, packages = found(findings, "onnxruntime")
    assert state == "ok"
    assert re.search(r"numpy \d.*opencv-python-headless \d.*onnxruntime \d.*fastapi \d", packages)
    assert found(findings, "model age_gender_A")[0] == "ok"
    assert found(findings, "the default model age_gender_B in")[0] == "ok"
    assert found(findings, "is not installed, and Haar")[1].endswith("run `agegender fetch-detector`.")
    assert re.search(r"by haar: 1 face in \d+ ms \(decode", found(findings, "by haar")[1])
    assert re.search(r"by none: 1 face in \d+ ms", found(findings, "by none")[1])
    assert found(findings, "is free.")[0] == "ok"


@needs_yunet
def test_yunet_is_timed_where_it_is_installed(models_folder: Path, empty_cache: Path) -> None:
    _, findings = examine(empty_cache, models_folder, AGEGENDER_YUNET_PATH=str(YUNET))
    assert found(findings, "is the published one.") == ("ok", f"YuNet in {YUNET} is the published one.")
    assert found(findings, "by yunet: 1 face in")[0] == "ok"


def test_models_that_cannot_be_served_are_wrong(tmp_path: Path, empty_cache: Path) -> None:
    _, findings = examine(empty_cache, tmp_path / "nowhere")
    assert found(findings, "There is no models folder")[0] == "wrong"

    put_model(tmp_path, "age_gender_A")
    _, findings = examine(empty_cache, tmp_path)
    state, said = found(findings, "The default model age_gender_B is none that runs")
    assert state == "wrong"
    assert "AGEGENDER_DEFAULT_MODEL" in said
    assert not any("face in" in text for _, text in findings)

    with (tmp_path / "age_gender_A.onnx").open("ab") as file:
        file.write(b"\0")
    _, findings = examine(empty_cache, tmp_path, AGEGENDER_YUNET_PATH="nowhere.onnx")
    assert found(findings, "is not the file that age_gender_A.json describes")[0] == "wrong"
    assert found(findings, "YuNet's file nowhere.onnx cannot be read")[0] == "wrong"


def test_a_service_and_its_metrics_are_found_past_any_proxy(models_folder: Path, empty_cache: Path) -> None:
    with serving(models_folder, empty_cache, "--workers=1", "--metrics-port=0") as server:
        metrics = server.wait_for_line("metrics are at")["message"].removesuffix("/metrics")
        ports = {"AGEGENDER_PORT": server.url, "AGEGENDER_METRICS_PORT": metrics}
        ports = {name: url.rpartition(":")[2] for name, url in ports.items()}
        for proxy in ("http://127.0.0.1:9", "socks5://127.0.0.1:9"):
            _, findings = examine(empty_cache, models_folder, ALL_PROXY=proxy, **ports)
            assert found(findings, "in use by this service, which is ready")[0] == "ok"
            assert found(findings, "in use by this service's metrics")[0] == "ok"


def test_a_port_is_free_or_this_service_s_own_or_taken(
    models_folder: Path, empty_cache: Path, server: Server
) -> None:
    own = server.url.rpartition(":")[2]
    _, findings = examine(empty_cache, models_folder, AGEGENDER_PORT=own)
    assert found(findings, f"port {own}") == (
        "ok",
        f"port {own} on 127.0.0.1 is in use by this service, which is ready.",
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        _, findings = examine(empty_cache, models_folder, AGEGENDER_METRICS_PORT=port)
        state, said = found(findings, f"port {port} (Address already in use)")
        assert state == "wrong"
        assert "choose another by --metrics-port (AGEGENDER_METRICS_PORT)" in said


def test_a_package_that_is_broken_or_missing_is_a_finding(
    models_folder: Path, empty_cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    _, findings = examine(empty_cache, models_folder, PYTHONPATH=str(tmp_path))
    assert found(findings, "cannot be imported") == (
        "wrong",
        "opencv-python-headless cannot be imported (libGL.so.1: cannot open shared object file): install it anew by "
        "`python -m pip install --force-reinstall opencv-python-headless`.",
    )


def test_traces_that_are_on_need_what_sends_them(
    models_folder: Path, empty_cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "opentelemetry.py").write_text("raise ImportError")
    _, findings = examine(empty_cache, models_folder, AGEGENDER_TRACES="true", PYTHONPATH=str(tmp_path))
    state, said = found(findings, "OpenTelemetry is not installed")
    assert state == "wrong"
    assert said.endswith("unset AGEGENDER_TRACES.")


def test_more_workers_than_cores_are_noted(
    models_folder: Path, empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, findings = examine(empty_cache, models_folder, AGEGENDER_WORKERS="1000")
    state, said = found(findings, "1000 workers")
    assert state == "note"
    assert "more than it may use: set AGEGENDER_WORKERS to " in said


def test_more_workers_than_a_container_may_use_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    settings = doctor.Settings(workers=16)
    for text, state, said in (
        ("150000 100000\n", "note", "more than it may use: set AGEGENDER_WORKERS to 2, or leave it unset."),
        ("max 100000\n", "ok", "16 cores; the service has 16 workers"),
    ):
        (tmp_path / "cpu.max").write_text(text)
        (finding,) = doctor._cores(settings)
        assert finding.state == state
        assert said in finding.text
    (tmp_path / "cpu.max").unlink()
    assert [finding.state for finding in doctor._cores(settings)] == ["ok"]


def test_without_the_example_a_drawn_picture_is_read(
    models_folder: Path, empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache))
    monkeypatch.setattr(doctor, "_EXAMPLE", tmp_path / "not_in_a_wheel.jpg")
    findings = list(doctor._predictions(doctor.Settings(models=models_folder)))
    assert [finding.state for finding in findings] == ["ok", "ok"]
    assert re.match(r"a drawn image by none: 1 face in \d+ ms \(decode 0\.0, ", findings[1].text)
