"""The images, built once, and the service as docker-compose.yml runs it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import Compose, Container, build, composed, docker, wait_until

# Only `make test-docker` sets it: these tests need an engine, minutes and gigabytes.
collect_ignore_glob = [] if os.environ.get("AGEGENDER_TEST_DOCKER") else ["test_*"]

SERVE, TRAIN = "agegender:test", "agegender-train:test"


def _built(tag: str, target: str, folder: Path) -> str:
    before = docker("images", "--quiet", tag)
    build(tag, target, folder)
    if before and before != docker("images", "--quiet", tag):
        docker("image", "rm", before, check=False)  # an image without a name would only fill the disk
    return tag


@pytest.fixture(scope="session")
def serve_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _built(SERVE, "serve", tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="session")
def train_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _built(TRAIN, "train", tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="session")
def mounted_models(models_folder: Path) -> Path:
    """The models folder, which the container's user may read."""
    models_folder.chmod(0o755)
    return models_folder


@pytest.fixture(scope="session")
def service(serve_image: str, mounted_models: Path) -> Iterator[Container]:
    """The service of docker-compose.yml, healthy, for tests that leave it as it is."""
    with composed(AGEGENDER_IMAGE=serve_image, AGEGENDER_MODELS_FOLDER=str(mounted_models)) as compose:
        container = compose.up()

        def health() -> bool:
            return container.inspect()["State"]["Health"]["Status"] == "healthy"

        wait_until(health, "the container is healthy")
        yield container


@pytest.fixture
def mortal(serve_image: str, mounted_models: Path) -> Iterator[tuple[Compose, Container]]:
    """The same once more, ready, for a test that ends it."""
    with composed(AGEGENDER_IMAGE=serve_image, AGEGENDER_MODELS_FOLDER=str(mounted_models)) as compose:
        container = compose.up()
        container.wait_until_ready()
        yield compose, container
