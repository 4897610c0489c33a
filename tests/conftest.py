from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT, YUNET_OPTIONS, Server, run_program, serving
from tiny_models import put_model, tiny_onnx


def pytest_configure() -> None:
    """Take out of the environment what would change what is tested."""
    for name in list(os.environ):
        if name.startswith(("AGEGENDER_", "OTEL_")) and name != "AGEGENDER_TEST_DOCKER":
            del os.environ[name]
    for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"):  # with which Typer colours what it says
        os.environ.pop(name, None)
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost"]))


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder whose A looks at red alone and whose B, the default, at all colours."""
    folder = tmp_path_factory.mktemp("models")
    put_model(folder, "age_gender_A", tiny_onnx(channels=(3, 0, 0)))
    put_model(folder, "age_gender_B")
    return folder


@pytest.fixture(scope="session")
def empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's cache without YuNet."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def server(models_folder: Path, empty_cache: Path) -> Iterator[Server]:
    """Two workers, a queue of 64, no keys, and YuNet where its file is at hand."""
    patient = ["--queue-size=64", "--queue-timeout=60"]  # also where other work slows the machine down
    with serving(models_folder, empty_cache, "--workers=2", *patient, *YUNET_OPTIONS) as running:
        yield running


KEYS = ("first-key-of-the-test", "second-key-of-the-test")


@pytest.fixture(scope="session")
def bare_server(tmp_path_factory: pytest.TempPathFactory, empty_cache: Path) -> Iterator[Server]:
    """One model, keys, and no YuNet."""
    folder = tmp_path_factory.mktemp("one-model")
    put_model(folder, "age_gender_B")
    with serving(folder, empty_cache, "--workers=1", AGEGENDER_API_KEYS=", ".join(KEYS)) as running:
        yield running


@pytest.fixture(scope="session")
def keys() -> tuple[str, str]:
    """What opens `bare_server`."""
    return KEYS


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built as `make docs` does."""
    pytest.importorskip("mkdocs", reason="needs MkDocs: it is in requirements/dev.txt")
    folder = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder)
    built = run_program(*command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, timeout=None)
    assert built.returncode == 0, built.stderr
    return folder
