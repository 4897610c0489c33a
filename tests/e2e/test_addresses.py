"""Where the service listens, what platforms set instead of a port, and what the health check asks."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from agegender.settings import Settings
from helpers import AGEGENDER, PATIENCE, ROOT, Server, environment, serving

SERVICE_LINK = "tcp://10.0.0.1:80"
"""What Kubernetes puts into AGEGENDER_PORT beside a service named `agegender`."""


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6 on this machine")


@pytest.fixture(scope="module")
def server(models_folder: Path, empty_cache: Path) -> Iterator[Server]:
    """A service on localhost, in a pod that has a service link in the place of its metrics port."""
    options = ["--workers=1", "--host=localhost"]
    with serving(models_folder, empty_cache, *options, AGEGENDER_METRICS_PORT=SERVICE_LINK) as running:
        yield running


def check_health(host: str, port: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", ROOT / "docker/healthcheck.py"],
        env={**os.environ, "AGEGENDER_HOST": host, "AGEGENDER_PORT": port},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@needs_ipv6
def test_localhost_is_both_families_on_one_port(server: Server) -> None:
    message = server.wait_for_line("listening on")["message"]
    urls = re.findall(r"http://[\w.:\[\]]+", message)
    assert [url.rpartition(":")[0] for url in urls] == ["http://127.0.0.1", "http://[::1]"]
    assert len({url.rpartition(":")[2] for url in urls}) == 1
    for url in urls:
        assert httpx.get(f"{url}/health/ready", trust_env=False).status_code == 200


@needs_ipv6
def test_the_health_check_asks_the_address_that_is_listened_on(server: Server) -> None:
    port = server.url.rpartition(":")[2]
    for host in ("", "localhost", "127.0.0.1", "0.0.0.0", "::", "::1", "[::1]"):  # noqa: S104
        assert check_health(host, port).returncode == 0, host


def test_the_health_check_says_that_nobody_answers() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        ended = check_health("", str(unused.getsockname()[1]))
    assert ended.returncode == 1
    assert re.fullmatch(r"not ready: .*refused\n", ended.stderr)


def test_the_health_check_survives_a_service_link() -> None:
    assert "Traceback" not in check_health("", SERVICE_LINK).stderr


def test_brackets_around_an_address_are_those_of_a_url() -> None:
    assert Settings(host="[::1]").host == "::1"


def test_a_service_link_is_ignored_with_one_line_in_the_log(server: Server) -> None:
    line = server.wait_for_line("AGEGENDER_METRICS_PORT")
    assert line["level"] == "warning"
    assert SERVICE_LINK in line["message"]
    assert server.log().count("service link") == 1


def test_a_service_link_stops_no_other_command(models_folder: Path, empty_cache: Path) -> None:
    ended = subprocess.run(
        [AGEGENDER, "models"],
        env=environment(empty_cache, AGEGENDER_MODELS=str(models_folder), AGEGENDER_PORT=SERVICE_LINK),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0
    assert "age_gender_B" in ended.stdout
    assert ended.stderr.count("\n") == 1
    assert "service link" in ended.stderr
