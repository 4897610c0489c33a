"""Ray Serve on two nodes of this machine compared with the service, and data sets in several processes."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rich.table import Table

from benchmarks.load import post
from benchmarks.photographs import photograph
from benchmarks.server import Bench, Process, Rounds, machine_cpu_seconds, service, throughput

_ROUNDS = 2
# As many as a service with one worker accepts: none is refused.
_CONNECTIONS = 4
_PHOTOGRAPH = 640, 480, 1
_IMAGES = 5000
_IMAGES_FOR_MEMORY = 20_000


def run(bench: Bench) -> Iterator[Table]:
    """Measure requests, then data sets, with the models of this environment."""
    if bench.yunet is not None:
        os.environ["AGEGENDER_YUNET_PATH"] = str(bench.yunet.resolve())
    yield _requests(bench)
    yield _data_sets(bench)


def _requests(bench: Bench) -> Table:
    from agegender.scale.serving import Arguments, app
    from ray import serve

    program, request = bench.programs[0], post("/predict", photograph(*_PHOTOGRAPH).jpeg)
    ray, proxy = partial(_cpu_seconds, "ray::", "/ray/core/src/"), partial(_cpu_seconds, "ray::ProxyActor")
    rounds: Rounds = defaultdict(list)
    with (
        service(program, bench.yunet, "--workers=1") as one,
        service(program, bench.yunet, "--workers=2") as two,
        _cluster() as port,
    ):
        for _ in range(_ROUNDS):
            for count, server in ((1, one), (2, two)):
                serve.run(app(Arguments(cpus=1, min_replicas=count, max_replicas=count)))
                for way, at, spent in (
                    (f"service, workers: {count}", server.port, server.cpu_seconds),
                    (f"Ray Serve, replicas: {count}", port, ray),
                ):
                    for connections in (1, _CONNECTIONS):
                        found = throughput(
                            at, request, connections, bench.seconds(4), service=spent, proxy=proxy
                        )
                        rounds[program, way, connections].append(found)
    return bench.medians(f"Requests, medians of {_ROUNDS} rounds", "way", rounds)


@contextlib.contextmanager
def _cluster() -> Iterator[int]:
    """Run two nodes with a core each, and Serve's proxy on one of them. Yields the port of the proxy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    os.environ.update(
        RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH="agegender.scale.serving:proxy_middlewares",
        RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING="0",
        RAY_USAGE_STATS_ENABLED="0",
    )
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    ray.init(cluster.address, log_to_driver=False)
    serve.start(proxy_location="HeadOnly", http_options={"port": port})
    try:
        yield port
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


def _cpu_seconds(*names: str) -> float:
    """Return the processor time of all processes whose command line contains one of `names`."""
    total = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
            if any(name in command for name in names):
                total += Process(int(folder.name)).cpu_seconds()
    return total


def _data_sets(bench: Bench) -> Table:
    program = str(bench.programs[0])
    images, many = (count // 5 if bench.quick else count for count in (_IMAGES, _IMAGES_FOR_MEMORY))
    predict, score = [program, "predict", "--csv"], [program, "score"]
    table = bench.table(
        "Data sets of photographs of 640x480 with a face",
        *("way", "images", "images/s", "of predict"),
        *("MB, first quarter", "MB, last quarter", "others, cores"),
    )
    predicted = 1.0
    with tempfile.TemporaryDirectory() as scratch:
        for count in (images, many):
            _fill(Path(scratch, str(count)), count)
        for number, (way, count, command) in enumerate(
            (
                ("predict --csv, 1 core", images, ["taskset", "--cpu-list", "0", *predict]),
                ("score, 1 worker", images, [*score, "--workers=1"]),
                ("predict --csv, 2 cores", images, predict),
                ("score, 2 workers", images, [*score, "--workers=2"]),
                ("score --ray local, 2 actors", images, [*score, "--workers=2", "--ray=local"]),
                ("score, 2 workers", many, [*score, "--workers=2"]),
            )
        ):
            output = [f"--output={scratch}/out{number}"] if "score" in command else []
            seconds, *measured = _watch([*command, f"{scratch}/{count}", *output])
            rate = count / seconds
            predicted = rate if "predict" in command else predicted
            bench.add_row(table, bench.programs[0], way, f"{count:,}", rate, rate / predicted, *measured)
    return table


def _fill(folder: Path, count: int) -> None:
    """Make a folder with `count` names of one photograph."""
    folder.mkdir()
    (folder / "0.jpg").write_bytes(photograph(*_PHOTOGRAPH).jpeg)
    for number in range(1, count):
        (folder / f"{number}.jpg").hardlink_to(folder / "0.jpg")


def _watch(command: list[str]) -> tuple[float, float, float, float]:
    """Run a command. Returns its seconds, its most memory in the first and in the last quarter, and others' cores."""
    machine, begun, own = machine_cpu_seconds(), time.perf_counter(), _seconds_of_children()
    samples = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            samples.append(_megabytes(process.pid))
            time.sleep(0.5)
    if process.returncode:
        raise RuntimeError(f"{command} failed.")
    seconds = time.perf_counter() - begun
    others = machine_cpu_seconds() - machine - (_seconds_of_children() - own)
    quarter = len(samples) // 4 + 1
    return seconds, max(samples[:quarter]), max(samples[-quarter:]), others / seconds


def _seconds_of_children() -> float:
    """Return the processor time of commands that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _megabytes(pid: int) -> float:
    """Return the resident memory of a process and its descendants, in millions of bytes."""
    try:
        own = Process(pid).megabytes()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0  # it has just ended
    return own + sum(_megabytes(int(child)) for child in children)
