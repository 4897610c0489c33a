"""Ray Serve on two nodes of this machine beside the service, and data sets in several processes."""

from __future__ import annotations

import os
import resource
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from rich.table import Table

from benchmarks.load import post
from benchmarks.photographs import photograph
from benchmarks.server import Bench, machine_cpu_seconds, service

_ROUNDS = 2
_CONNECTIONS = 4
"""As many as a single worker has places for: none is refused."""
_PHOTOGRAPH = 640, 480, 1
_IMAGES = 5000
_IMAGES_FOR_MEMORY = 20_000
_GIGABITS = 10
"""Of the network of a node, for the projection."""


@dataclass(frozen=True)
class Round:
    """What one round found; see the table's headings."""

    per_second: float
    p50: float
    p99: float
    cpu: float
    proxy_cpu: float
    others_cores: float


def run(bench: Bench) -> Iterator[Table]:
    """Requests first, then data sets; with the models and YuNet's file that this environment has."""
    if bench.yunet is not None:
        os.environ["AGEGENDER_YUNET_PATH"] = str(bench.yunet.resolve())
    yield from _requests(bench)
    yield from _data_sets(bench)


def _requests(bench: Bench) -> Iterator[Table]:
    from agegender.scale.serving import Arguments, app
    from ray import serve

    jpeg = photograph(*_PHOTOGRAPH).jpeg
    rounds: dict[tuple[str, int], list[Round]] = {}
    with ExitStack() as stack:
        one = stack.enter_context(service(bench.programs[0], bench.yunet, "--workers=1"))
        two = stack.enter_context(service(bench.programs[0], bench.yunet, "--workers=2"))
        port = stack.enter_context(_cluster())

        def measure(name: str, port: int, cpu_seconds: Callable[[], float]) -> None:
            for connections in (1, _CONNECTIONS):
                found = _measure(bench, port, jpeg, connections, cpu_seconds)
                rounds.setdefault((name, connections), []).append(found)

        for _ in range(_ROUNDS):
            for replicas, server in ((1, one), (2, two)):
                measure(f"service, workers: {replicas}", server.port, server.cpu_seconds)
                serve.run(app(Arguments(cpus=1, min_replicas=replicas, max_replicas=replicas)))
                measure(
                    f"Ray Serve, replicas: {replicas}", port, lambda: _cpu_seconds("ray::", "/ray/core/src/")
                )
    table = bench.table(
        f"Requests, medians of {_ROUNDS} rounds",
        *(
            "way",
            "connections",
            "200/s",
            "p50, ms",
            "p99, ms",
            "CPU a 200, ms",
            "of it the proxy",
            "others, cores",
        ),
    )
    medians = {}
    for (name, connections), found in rounds.items():
        medians[name, connections] = Round(
            *(statistics.median(getattr(each, field.name) for each in found) for field in fields(Round))
        )
        cells = [getattr(medians[name, connections], field.name) for field in fields(Round)]
        bench.add_row(table, bench.programs[0], name, str(connections), *cells)
    yield table
    yield _projection(bench, medians["Ray Serve, replicas: 2", _CONNECTIONS], len(jpeg))


def _projection(bench: Bench, measured: Round, image_bytes: int) -> Table:
    """From processor time a request: nodes of two cores that do nothing else."""
    table = bench.table(
        f"Projection to nodes of 2 cores and {_GIGABITS} Gbit/s, answers per second",
        *(
            "nodes",
            "replicas could",
            "one proxy can",
            "its network can",
            "limit of one proxy",
            "a proxy on every node",
        ),
    )
    a_node = 2 * 1000 / measured.cpu
    without_proxy = 2 * 1000 / (measured.cpu - measured.proxy_cpu)
    proxy = 1000 / measured.proxy_cpu
    network = _GIGABITS * 1e9 / 8 / image_bytes / 2  # each image comes in, and goes on to a replica
    for nodes in (4, 16, 64):
        could = nodes * without_proxy
        limit = min((could, "replicas"), (proxy, "proxy"), (network, "network"))
        bench.add_row(
            table,
            bench.programs[0],
            str(nodes),
            could,
            proxy,
            network,
            f"{limit[0]:,.0f} ({limit[1]})",
            nodes * a_node,
        )
    return table


@contextmanager
def _cluster() -> Iterator[int]:
    """Two nodes with a core each, and Serve's proxy on one of them: its port."""
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


def _measure(
    bench: Bench, port: int, jpeg: bytes, connections: int, cpu_seconds: Callable[[], float]
) -> Round:
    def spent() -> tuple[float, float, float, float]:
        return time.perf_counter(), machine_cpu_seconds(), cpu_seconds(), _cpu_seconds("ray::ProxyActor")

    before = spent()
    answers = bench.client.closed(port, [post("/predict", jpeg)], connections, bench.seconds(4))
    seconds, machine, servers, proxy = (after - begun for after, begun in zip(spent(), before, strict=True))
    good = answers.count(200)
    return Round(
        per_second=answers.per_second(200),
        p50=answers.percentile(50),
        p99=answers.percentile(99),
        cpu=1000 * servers / good,
        proxy_cpu=1000 * proxy / good,
        others_cores=max(0.0, (machine - servers - answers.client_seconds) / seconds),
    )


def _cpu_seconds(*names: str) -> float:
    """Processor time of all processes whose command line holds one of the names."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
            spent = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
        except OSError:
            continue  # it has just ended
        if any(name in command for name in names):
            total += sum(map(int, spent))
    return total / os.sysconf("SC_CLK_TCK")


def _data_sets(bench: Bench) -> Iterator[Table]:
    program = str(bench.programs[0])
    images, many = (count // 5 if bench.quick else count for count in (_IMAGES, _IMAGES_FOR_MEMORY))
    table = bench.table(
        "Data sets of photographs of 640x480 with a face",
        *(
            "way",
            "images",
            "images/s",
            "of predict",
            "MB, first quarter",
            "MB, last quarter",
            "others, cores",
        ),
    )
    predicted = rate = 1.0
    with tempfile.TemporaryDirectory() as scratch:
        folder = _fill(Path(scratch, "images"), images)
        predict = [program, "predict", "--csv", folder]
        one_core = ["taskset", "--cpu-list", "0"]
        for number, (way, command, count) in enumerate(
            (
                ("predict --csv, 1 core", [*one_core, *predict], images),
                ("score, 1 worker", [program, "score", folder, "--workers=1"], images),
                ("predict --csv, 2 cores", predict, images),
                ("score, 2 workers", [program, "score", folder, "--workers=2"], images),
                (
                    "score --ray local, 2 actors",
                    [program, "score", folder, "--workers=2", "--ray=local"],
                    images,
                ),
                ("score, 2 workers", [program, "score", "MANY", "--workers=2"], many),
            )
        ):
            if "MANY" in command:
                folder = _fill(Path(scratch, "many"), many)
                command = [folder if word == "MANY" else word for word in command]
            if "score" in command:
                command.append(f"--output={scratch}/{number}")
            seconds, memory, others = _watch(command)
            if "predict" in command:
                predicted = count / seconds
            elif "ray" not in way:
                rate = count / seconds
            bench.add_row(
                table,
                bench.programs[0],
                way,
                f"{count:,}",
                count / seconds,
                count / seconds / predicted,
                *memory,
                others,
            )
    yield table
    hours = bench.table(
        "Projection: hours for a data set, from the last line", "nodes of 2 cores", "1 million", "100 million"
    )
    for nodes in (1, 4, 16, 64):
        bench.add_row(
            hours, bench.programs[0], str(nodes), *(count / rate / nodes / 3600 for count in (1e6, 1e8))
        )
    yield hours


def _fill(folder: Path, count: int) -> str:
    """As many names of one photograph."""
    folder.mkdir()
    (folder / "0.jpg").write_bytes(photograph(*_PHOTOGRAPH).jpeg)
    for number in range(1, count):
        (folder / f"{number}.jpg").hardlink_to(folder / "0.jpg")
    return str(folder)


def _watch(command: list[str]) -> tuple[float, tuple[float, float], float]:
    """Seconds that a command takes, its most memory in the first and the last quarter, and cores that others took."""
    machine, begun, own = machine_cpu_seconds(), time.perf_counter(), _of_children()
    samples = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            samples.append(_megabytes(process.pid))
            time.sleep(0.5)
    if process.returncode:
        raise RuntimeError(f"{command} failed.")
    seconds = time.perf_counter() - begun
    others = machine_cpu_seconds() - machine - (_of_children() - own)
    quarter = len(samples) // 4 + 1
    return seconds, (max(samples[:quarter]), max(samples[-quarter:])), others / seconds


def _of_children() -> float:
    """Processor time of commands that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _megabytes(pid: int) -> float:
    """Resident memory of a process and all that it began, millions of bytes."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0  # it has just ended
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6 + sum(_megabytes(int(child)) for child in children)
