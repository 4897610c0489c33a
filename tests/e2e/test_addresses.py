"""Where the service listens, what platforms set instead of a port, and what the health check asks."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

import httpx
import pytest
from helpers import ROOT, Server, free_port, run_program


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6 on this machine")


def check_health(host: str, port: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "AGEGENDER_HOST": host, "AGEGENDER_PORT": port}
    return run_program(sys.executable, "-I", ROOT / "docker/healthcheck.py", env=env)


@needs_ipv6
def test_localhost_is_both_families_on_one_port(narrow_server: Server) -> None:
    message = narrow_server.wait_for_line("listening on")["message"]
    urls = re.findall(r"http://[\w.:\[\]]+", message)
    assert [url.rpartition(":")[0] for url in urls] == ["http://127.0.0.1", "http://[::1]"]
    assert len({url.rpartition(":")[2] for url in urls}) == 1
    for url in urls:
        assert httpx.get(f"{url}/health/ready", trust_env=False).status_code == 200


@needs_ipv6
def test_the_health_check_asks_the_address_that_is_listened_on(narrow_server: Server) -> None:
    port = narrow_server.url.rpartition(":")[2]
    for host in ("", "localhost", "127.0.0.1", "0.0.0.0", "::", "::1", "[::1]"):  # noqa: S104
        assert check_health(host, port).returncode == 0, host


def test_the_health_check_says_that_nobody_answers() -> None:
    ended = check_health("", str(free_port()))
    assert ended.returncode == 1
    assert re.fullmatch(r"not ready: .*refused\n", ended.stderr)


def test_the_health_check_survives_a_service_link() -> None:
    assert "Traceback" not in check_health("", "tcp://10.0.0.1:80").stderr


def test_a_service_link_is_ignored_with_one_line_in_the_log(narrow_server: Server) -> None:
    line = narrow_server.wait_for_line("AGEGENDER_METRICS_PORT")
    assert line["level"] == "warning"
    assert "tcp://10.0.0.1:80" in line["message"]
    assert narrow_server.log().count("service link") == 1
