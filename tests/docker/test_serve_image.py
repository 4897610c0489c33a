"""The serving image, run as docker-compose.yml runs it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from engine import Compose, Container, build, docker, running, wait_until
from helpers import (
    ASTRONAUT,
    GRACE_HOPPER,
    ROOT,
    YUNET,
    YUNET_OPTIONS,
    Upload,
    serving,
    without_timings,
)

import hatch_build

MAX_SIZE = 500e6
SHIPPED = sorted((ROOT / "models").glob("*.onnx"))


def test_the_image_is_small_and_says_what_it_is(serve_image: str) -> None:
    (image,) = json.loads(docker("image", "inspect", serve_image))
    assert image["Size"] <= MAX_SIZE
    labels = image["Config"]["Labels"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels["org.opencontainers.image.title"] == project["name"]
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.licenses"] == hatch_build.licence(str(ROOT))


def test_what_the_build_was_told_in_secret_is_not_inside(service: Container) -> None:
    for place in ("/etc/pip.conf", "/run/secrets"):
        assert "No such file" in service.execute("ls", place, check=False)


def test_only_what_serving_needs_is_inside(service: Container) -> None:
    for module in ("pip", "ensurepip", "setuptools", "tensorflow", "keras", "pytest"):
        assert f"No module named '{module}'" in service.execute(
            "python3", "-c", f"import {module}", check=False
        )
    for program in ("pip", "pip3", "cc", "gcc", "c++", "ld", "curl", "git"):
        assert service.execute("sh", "-c", f"command -v {program} || echo none") == "none"
    assert service.execute("find", "/opt/agegender/cache", "-type", "f").splitlines() == (
        [f"/opt/agegender/cache/agegender/{YUNET.name}"] if YUNET.exists() else []
    )


@pytest.mark.parametrize("photograph", [ASTRONAUT, GRACE_HOPPER], ids=lambda path: path.stem)
def test_it_answers_as_the_service_does_outside(
    service: Container, mounted_models: Path, tmp_path: Path, photograph: Path
) -> None:
    image = photograph.read_bytes()
    with serving(mounted_models, tmp_path, "--workers=1", *YUNET_OPTIONS) as outside:
        for query in ({}, {"model": "age_gender_A"}, {"detector": "haar"}):
            answer, expected = service.predict(image, **query), outside.predict(image, **query)
            assert (answer.status_code, expected.status_code) == (200, 200)
            assert len(expected.json()["faces"]) == 1
            assert without_timings(answer.json()) == without_timings(expected.json())


@pytest.mark.skipif(not SHIPPED, reason="no models in models/ yet")
def test_the_models_of_the_repository_are_inside(serve_image: str, tmp_path: Path) -> None:
    image = ASTRONAUT.read_bytes()
    with (
        running(serve_image) as container,
        serving(ROOT / "models", tmp_path, "--workers=1", *YUNET_OPTIONS) as outside,
    ):
        for model in SHIPPED:
            query = {"model": model.stem}
            answer, expected = container.predict(image, **query), outside.predict(image, **query)
            assert without_timings(answer.json()) == without_timings(expected.json())
            assert len(answer.json()["faces"]) == 1


def test_an_image_can_be_built_with_one_model(serve_image: str, tmp_path: Path) -> None:
    tag = f"{serve_image}-one"
    build(tag, "serve", tmp_path, "MODELS=age_gender_A")
    try:
        with running(tag) as container:
            listing = container.client.get("/models").json()
            assert (listing["default"], len(listing["models"])) == ("age_gender_A", 1)
            assert container.predict(ASTRONAUT.read_bytes()).json()["model"] == "age_gender_A"
            assert container.execute("ls", "/models").split() == ["age_gender_A.json", "age_gender_A.onnx"]
        with pytest.raises(AssertionError, match="age_gender_Z"):
            build(tag, "serve", tmp_path, "MODELS=age_gender_Z")
    finally:
        docker("image", "rm", tag)


def test_nothing_can_be_written(service: Container) -> None:
    folders = ("/", "/opt/agegender", "/opt/agegender/cache", "/models", "/etc", "/tmp")  # noqa: S108
    for place in folders:
        assert "Read-only file system" in service.execute("touch", f"{place}/new", check=False)


def test_it_runs_as_nobody_with_no_power(service: Container) -> None:
    for process in (1, int(service.execute("sh", "-c", "cat /proc/1/task/1/children").split()[0])):
        status = dict(re.findall(r"^(\w+):\t(.+)$", service.execute("cat", f"/proc/{process}/status"), re.M))
        assert set(status["Uid"].split()) == {"10001"}
        assert set(status["Gid"].split()) == {"10001"}
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"


def test_it_listens_on_one_port_and_one_is_published(service: Container) -> None:
    listening = {
        int(line.split()[1].split(":")[1], 16)
        for line in service.execute("sh", "-c", "cat /proc/net/tcp*").splitlines()
        # State 0A is LISTEN; 127.0.0.11 is the name server that Docker puts into the container's network.
        if line.split()[3] == "0A" and not line.split()[1].startswith("0B00007F")
    }
    assert listening == {8000}
    published = service.inspect()["NetworkSettings"]["Ports"]
    assert [(port, [host["HostIp"] for host in hosts]) for port, hosts in published.items()] == [
        ("8000/tcp", ["127.0.0.1"])
    ]


def test_its_doctor_finds_all_well(service: Container) -> None:
    findings = service.execute("agegender", "doctor")
    assert not re.search("^wrong", findings, re.MULTILINE)
    assert "model age_gender_B (the default) in /models is intact and runs" in findings
    assert "note  The service cannot listen on host 0.0.0.0, port 8000 (Address already in use)" in findings
    assert re.search("^ok    a prediction with detector .* takes", findings, re.MULTILINE)


def test_health_turns_with_the_service(service: Container) -> None:
    check = ["python3", "-I", "/opt/agegender/healthcheck.py"]
    assert service.inspect()["Config"]["Healthcheck"]["Test"] == ["CMD", *check]
    assert service.execute(*check) == ""
    # Where nothing listens it is not ready.
    assert "not ready" in service.execute("env", "AGEGENDER_PORT=8001", *check, check=False)


def test_sigterm_lets_what_was_accepted_finish(mortal: tuple[Compose, Container]) -> None:
    _, container = mortal
    image = ASTRONAUT.read_bytes()
    accepted = [Upload(container, length=len(image), content_type="image/jpeg") for _ in range(4)]
    for upload in accepted:
        upload.send(image[:1000])
    docker("kill", "--signal", "TERM", container.id)
    wait_until(lambda: not container.is_ready(), "the service takes nothing new")
    for upload in accepted:
        upload.send(image[1000:])
        assert upload.answer().status_code == 200
    assert docker("wait", container.id) == "0"


def test_it_comes_back_when_it_dies(mortal: tuple[Compose, Container]) -> None:
    compose, container = mortal
    # The server is killed outright, and with it goes the container.
    container.execute("sh", "-c", "kill -KILL -1", check=False)
    wait_until(lambda: container.inspect()["RestartCount"] == 1, "Docker restarts the container")
    container.wait_until_ready()
    assert container.predict(ASTRONAUT.read_bytes()).status_code == 200
    # `docker kill` is an operator's wish, so Docker leaves it at that; `up` brings it back.
    docker("kill", container.id)
    assert container.inspect()["State"]["ExitCode"] == 137
    again = compose.up()
    again.wait_until_ready()
    assert again.predict(ASTRONAUT.read_bytes()).status_code == 200


def test_there_is_a_worker_for_each_core_that_the_container_may_use(serve_image: str) -> None:
    with running(serve_image, "--cpus=1") as container:
        metrics = container.client.get("/metrics").text
    assert "agegender_places 5.0" in metrics.splitlines()  # one worker, and four that may wait for it
