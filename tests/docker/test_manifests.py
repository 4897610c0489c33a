"""docker-compose.yml and docker/kubernetes.yaml, read by the tools that will read them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from engine import compose_command, run
from helpers import ROOT, run_program

MANIFEST = ROOT / "docker/kubernetes.yaml"


@pytest.mark.parametrize("profiles", [[], ["--profile", "train"], ["--profile", "monitoring"]])
def test_compose_finds_nothing_to_say(profiles: list[str]) -> None:
    command = (*compose_command(), "--file", ROOT / "docker-compose.yml", *profiles, "config")
    done = run_program(*command)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that knows the published schemas, in an environment of its own."""
    environment = tmp_path_factory.mktemp("validator")
    run(sys.executable, "-m", "venv", environment)
    packages = Path(__file__).with_name("validator.txt")
    run(environment / "bin/pip", "install", "--quiet", "--require-hashes", "--requirement", packages)
    return environment / "bin/kubernetes-validate"


def test_the_manifest_keeps_to_the_published_schemas(validator: Path) -> None:
    output = run("sh", "-c", f"{validator} --strict {MANIFEST} 2>&1")
    for resource in ("deployment", "service", "horizontalpodautoscaler", "poddisruptionbudget"):
        assert f"passed for resource {resource}/agegender" in output
