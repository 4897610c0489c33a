"""A Ray cluster of two nodes on this machine, with the service on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import free_port

MIDDLEWARES = "agegender.scale.serving:proxy_middlewares"


@pytest.fixture(scope="session")
def cluster(models_folder: Path, empty_cache: Path) -> Iterator[Any]:
    """A head node that serves HTTP and may hold one replica, and another node for one."""
    ray = pytest.importorskip("ray", reason="needs Ray: `make test-scale` runs these tests")
    from ray import serve
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", MIDDLEWARES)
        patch.setenv("RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("XDG_CACHE_HOME", str(empty_cache))
        patch.setenv("AGEGENDER_MODELS", str(models_folder))
        patch.setenv("AGEGENDER_MAX_BYTES", "2000000")
        patch.setenv("AGEGENDER_ARRIVAL_MEMORY", "8000000")
        node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        made.add_node(**node)
        made.connect()
        port = free_port()
        serve.start(proxy_location="HeadOnly", http_options={"port": port, "request_timeout_s": 20})
        made.url, made.node = f"http://127.0.0.1:{port}", node
        yield made
        serve.shutdown()
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def ray_processes(empty_cache: Path) -> Callable[[str], list[int]]:
    """Finds the processes of the cluster's actors of a class."""

    def find(name: str) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                title, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
            except OSError:
                continue  # it has just ended
            if (
                title.startswith(b"ray::")
                and name.encode() in title
                and os.fsencode(empty_cache) in environment
            ):
                found.append(int(folder.name))
        return found

    return find
