"""The service on Ray Serve: the HTTP contract through its proxy, and what callers see when parts of it fail."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from agegender.client import Client
from helpers import ASTRONAUT, PATIENCE, Upload, check_problem, grey, png, wait_until

pytest.importorskip("ray", reason="needs Ray: `make test-scale` runs these tests")
import ray
from agegender.scale.serving import Arguments, app
from ray import serve

REPLICA = "ServeReplica"
PLACES = 5
"""Of a replica: its worker, and four requests that wait for it."""


def deploy(replicas: int) -> None:
    serve.run(app(Arguments(cpus=1, min_replicas=replicas, max_replicas=replicas)))


@pytest.fixture(scope="module")
def url(cluster: Any) -> Iterator[str]:
    """Of the service with two replicas, one a node."""
    deploy(2)
    yield cluster.url
    serve.delete("default")


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as made:
        yield made


JPEG = {"Content-Type": "image/jpeg"}


def test_before_the_service_is_there_callers_are_told_to_come_again(cluster: Any) -> None:
    answer = httpx.get(f"{cluster.url}/models", trust_env=False)
    check_problem(answer, 503, "starting", "/models")
    assert int(answer.headers["retry-after"]) >= 1


def test_answers_are_those_of_the_service(client: httpx.Client) -> None:
    answer = client.post("/predict", content=ASTRONAUT.read_bytes(), headers={**JPEG, "X-Request-ID": "mine"})
    assert answer.status_code == 200
    assert answer.headers.get_list("x-request-id") == ["mine"]
    assert len(answer.json()["faces"]) == 1
    assert client.get("/health/ready").json() == {"status": "ready"}
    assert len(client.get("/models").json()["models"]) == 2


@pytest.mark.parametrize("path", ["/nowhere", "/metrics"])
def test_what_is_not_there_is_a_problem(client: httpx.Client, path: str) -> None:
    check_problem(client.get(path, headers={"X-Request-ID": "not sane"}), 404, "not-found", path)


def test_too_large_a_body_is_refused_before_it_is_read(cluster: Any, client: httpx.Client) -> None:
    announced = Upload(cluster, length=50_000_000, wait=False).answer()
    check_problem(announced, 413, "body-too-large")
    chunks = iter(bytes(2**16) for _ in range(1000))
    check_problem(client.post("/predict", content=chunks, headers=JPEG), 413, "body-too-large")


def test_more_than_finds_a_place_is_a_problem_that_says_when_to_come_again(client: httpx.Client) -> None:
    slow = png(grey(100, 1300, 1300))

    def ask(_: int) -> httpx.Response:
        return client.post("/predict", content=slow, params={"detector": "haar"}, headers=JPEG)

    with ThreadPoolExecutor(60) as threads:
        answers = list(threads.map(ask, range(60)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) < 60
    for answer in refused:
        check_problem(answer, 503, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1


def test_rays_metrics_hold_those_of_every_replica(client: httpx.Client) -> None:
    def ask(_: int) -> int:
        return client.post("/predict", content=ASTRONAUT.read_bytes(), headers=JPEG).status_code

    def shown() -> list[float]:
        """Of each replica."""
        addresses = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in ray.nodes()]
        texts = [httpx.get(f"http://{address}/metrics", trust_env=False).text for address in addresses]
        counter = r'^ray_agegender_requests_total\{.*route="/predict",.*status="200".*\} (.*)$'
        return [float(count) for text in texts for count in re.findall(counter, text, re.MULTILINE)]

    before = sum(shown())
    with ThreadPoolExecutor(PLACES) as threads:
        assert set(threads.map(ask, range(40))) == {200}
    wait_until(lambda: len(shown()) >= 2 and sum(shown()) >= before + 40, "all are counted, by two replicas")


class Load:
    """Callers who ask again and again: some send bare requests, some use the project's client, which retries."""

    def __init__(self, url: str) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self.failed_with_client: list[str] = []
        self._url = url
        self._ended = threading.Event()
        self._image = png(grey(100, 320, 240))

    def bare(self) -> None:
        with httpx.Client(base_url=self._url, timeout=PATIENCE, trust_env=False) as client:
            while not self._ended.is_set():
                try:
                    answer = client.post("/predict", content=self._image, headers=JPEG)
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))
                    continue
                if answer.status_code == 200:
                    self.answered += 1
                else:
                    check_problem(answer, 503, answer.json()["type"].rpartition("/")[2])
                    self.failed.append(answer.text)

    def with_client(self) -> None:
        with Client(self._url) as client:
            while not self._ended.is_set():
                try:
                    client.predict(self._image)
                    self.answered += 1
                except Exception as error:
                    self.failed_with_client.append(repr(error))

    def wait_for(self, answers: int) -> None:
        """Until so many more were answered."""
        enough = self.answered + answers
        wait_until(lambda: self.answered >= enough, f"{answers} more are answered")


@contextmanager
def steady_load(url: str) -> Iterator[Load]:
    """Fewer callers than there are places on one replica are never refused for want of one."""
    load = Load(url)
    with ThreadPoolExecutor(PLACES) as threads:
        callers = [threads.submit(load.bare) for _ in range(3)] + [
            threads.submit(load.with_client) for _ in range(2)
        ]
        try:
            load.wait_for(20)
            yield load
            load.wait_for(20)
        finally:
            load._ended.set()
    for caller in callers:
        caller.result()


def wait_for_replicas(
    ray_processes: Callable[[str], list[int]], other_than: set[int], count: int = 2
) -> None:
    def there() -> bool:
        status = serve.status().applications["default"].deployments["agegender"].status
        return status == "HEALTHY" and len(set(ray_processes(REPLICA)) - other_than) == count

    wait_until(there, f"{count} replicas are healthy")


def test_a_replica_killed_costs_at_most_the_requests_in_it(
    url: str, ray_processes: Callable[[str], list[int]]
) -> None:
    wait_for_replicas(ray_processes, set())
    with steady_load(url) as load:
        killed = ray_processes(REPLICA)[0]
        os.kill(killed, signal.SIGKILL)
        begun = time.monotonic()
        load.wait_for(100)
        wait_for_replicas(ray_processes, {killed})
        print(f"full strength after {time.monotonic() - begun:.1f} s; failed: {load.failed}")
    assert len(load.failed) <= PLACES
    assert load.failed_with_client == []


def test_a_node_killed_costs_at_most_the_requests_in_it(
    cluster: Any, url: str, ray_processes: Callable[[str], list[int]]
) -> None:
    wait_for_replicas(ray_processes, set())
    before = set(ray_processes(REPLICA))
    with steady_load(url) as load:
        (node,) = cluster.worker_nodes
        cluster.remove_node(node, allow_graceful=False)
        begun = time.monotonic()
        load.wait_for(100)
        cluster.add_node(**cluster.node)
        (survivor,) = before & set(ray_processes(REPLICA))
        wait_for_replicas(ray_processes, before - {survivor})
        print(f"full strength after {time.monotonic() - begun:.1f} s; failed: {load.failed}")
    assert len(load.failed) <= PLACES
    assert load.failed_with_client == []


def test_a_replica_that_is_not_needed_any_more_finishes_its_requests(
    url: str, ray_processes: Callable[[str], list[int]]
) -> None:
    wait_for_replicas(ray_processes, set())
    with steady_load(url) as load:
        deploy(1)
        wait_for_replicas(ray_processes, set(), 1)
    assert load.failed == []
    assert load.failed_with_client == []
