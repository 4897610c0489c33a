from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import Server, serving

SERVICE_LINK = "tcp://10.0.0.1:80"
"""What Kubernetes puts into AGEGENDER_METRICS_PORT beside a service named `agegender-metrics`."""


@pytest.fixture(scope="session")
def narrow_server(models_folder: Path, empty_cache: Path) -> Iterator[Server]:
    """One worker and no queue, so a single place; on localhost, in a pod with a service link."""
    options = ["--workers=1", "--queue-size=0", "--host=localhost"]
    with serving(models_folder, empty_cache, *options, AGEGENDER_METRICS_PORT=SERVICE_LINK) as running:
        yield running
