"""Docker as the tests use it: commands, builds with what this machine needs to install packages, containers."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
import httpx
from helpers import ROOT, YUNET, Service, free_port, run_program

PATIENCE = 180
"""Seconds until a test that hangs fails; machines that build images at the same time are slow."""

STAND_IN = Path(__file__).with_name("stand-in.sh")


def run(*command: str | Path, check: bool = True, **options: Any) -> str:
    """Standard output of a command, without white space around it; its error output is shown where it fails."""
    done = run_program(*command, timeout=None, **options)
    assert not check or done.returncode == 0, (
        f"{shlex.join(map(str, command))}:\n{done.stdout}\n{done.stderr}"
    )
    output: str = done.stdout
    return output.strip()


def docker(*arguments: str | Path, check: bool = True) -> str:
    return run("docker", *arguments, check=check)


wait_until = functools.partial(helpers.wait_until, seconds=PATIENCE)


def builder() -> str:
    """A `docker` that has BuildKit: with buildx, or so old that BuildKit is built in."""
    for folder in os.get_exec_path():
        client = shutil.which("docker", path=folder)
        if client is None:
            continue
        version = re.search(r"version (\d+)", run(client, "--version"))
        assert version is not None
        if run(client, "buildx", "version", check=False).startswith("github.com") or int(version[1]) < 23:
            return client
    raise AssertionError("no `docker` here has BuildKit: install buildx")


def compose_command() -> list[str]:
    if run("docker", "compose", "version", check=False):
        return ["docker", "compose"]
    return ["docker-compose"]


def _has(image: str) -> bool:
    return docker("image", "inspect", "--format", "{{.Id}}", image, check=False) != ""


def base_image() -> str | None:
    """What to build on: None where the Dockerfile's own base image is at hand or can be pulled, else a stand-in."""
    if given := os.environ.get("BASE_IMAGE"):
        return given
    default = re.search(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert default is not None
    if _has(default[1]) or docker("pull", "--quiet", default[1], check=False):
        return None
    tag = f"agegender-stand-in:{hashlib.sha256(STAND_IN.read_bytes()).hexdigest()[:12]}"
    if not _has(tag):
        run(STAND_IN, tag)
    return tag


def build(tag: str, target: str, folder: Path, *arguments: str) -> None:
    """Build a stage, with build arguments; packages come from where this machine's pip has them, trusted as there."""
    options: list[str | Path] = ["--tag", tag, "--target", target]
    for argument in arguments:
        options += ["--build-arg", argument]
    if (base := base_image()) is not None:
        options += ["--build-arg", f"BASE_IMAGE={base}"]
    if YUNET.exists():
        options += ["--build-arg", "YUNET=file", "--secret", f"id=yunet,src={YUNET}"]
    else:
        options += ["--build-arg", "YUNET=none"]
    configured = dict(
        re.findall(
            r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$",
            run(sys.executable, "-m", "pip", "config", "list"),
            re.M,
        )
    )
    kept = {
        name: value
        for name, value in configured.items()
        if name in ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")
    }
    if certificates := configured.get("cert", os.environ.get("SSL_CERT_FILE")):
        kept["cert"] = "/run/secrets/ca"
        options += ["--secret", f"id=ca,src={certificates}"]
    pip_conf = folder / "pip.conf"
    pip_conf.touch(mode=0o600)
    pip_conf.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in kept.items()))
    options += ["--secret", f"id=pip.conf,src={pip_conf}"]
    run(builder(), "build", "--progress", "plain", *options, ROOT, env={**os.environ, "DOCKER_BUILDKIT": "1"})
    pip_conf.unlink()


class Container(Service):
    """A container by its id, with a client of its service."""

    def __init__(self, container_id: str, url: str) -> None:
        self.id = container_id
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False)

    def inspect(self) -> dict[str, Any]:
        described: dict[str, Any] = json.loads(docker("inspect", self.id))[0]
        return described

    def execute(self, *command: str, check: bool = True) -> str:
        """Standard output and error output of a command in the container."""
        return run("docker", "exec", self.id, "sh", "-c", 'exec "$@" 2>&1', "sh", *command, check=check)

    def is_ready(self) -> bool:
        try:
            return self.client.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def wait_until_ready(self) -> None:
        wait_until(self.is_ready, f"{self.url} is ready")


class Compose:
    """docker-compose.yml with its variables set, as a project of its own."""

    def __init__(self, **variables: str) -> None:
        self.port = free_port()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AGEGENDER_")}
        self._environment = {**inherited, "AGEGENDER_PORT": str(self.port), **variables}
        self._project = f"agegender-test-{self.port}"

    def __call__(self, *arguments: str) -> str:
        command = [
            *compose_command(),
            "--project-name",
            self._project,
            "--file",
            str(ROOT / "docker-compose.yml"),
        ]
        return run(*command, *arguments, env=self._environment)

    def up(self) -> Container:
        """Start the service."""
        self("up", "--detach", "--no-build", "agegender")
        return Container(self("ps", "--quiet", "agegender"), f"http://127.0.0.1:{self.port}")


@contextlib.contextmanager
def composed(**variables: str) -> Iterator[Compose]:
    """A `Compose` whose containers, volumes and network are gone afterwards."""
    compose = Compose(**variables)
    try:
        yield compose
    finally:
        compose("down", "--volumes", "--timeout", "1")


@contextlib.contextmanager
def running(image: str, *options: str) -> Iterator[Container]:
    """The service in a container of its own, without Compose but as hardened; ready, and gone afterwards."""
    hardened = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges:true")
    container_id = docker("run", "--detach", "--publish=127.0.0.1::8000", *hardened, *options, image)
    try:
        container = Container(container_id, f"http://{docker('port', container_id, '8000/tcp')}")
        container.wait_until_ready()
        yield container
    finally:
        docker("rm", "--force", container_id)
