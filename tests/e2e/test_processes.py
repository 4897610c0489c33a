"""Several server processes: they share the work and the counting, and one that dies or hangs is replaced."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from helpers import PATIENCE, Server, grey, png, serving
from tiny_models import put_model

IMAGE = png(grey(51))


@pytest.fixture
def server(models_folder: Path, empty_cache: Path) -> Iterator[Server]:
    with serving(
        models_folder, empty_cache, "--processes=2", "--workers=1", "--queue-size=16", "--metrics-port=0"
    ) as running:
        yield running


def serving_processes(server: Server) -> set[int]:
    """Those that say of themselves that they serve: what else multiprocessing starts is none of them."""
    said = re.findall(r"Started server process \[(\d+)\]", server.log())
    return {pid for pid in map(int, said) if runs(pid)}


def runs(pid: int) -> bool:
    """Whether it is there, and more than a zombie, as the orphans stay where the first process reaps none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def counted_in(pids: set[int]) -> set[Path]:
    """The folder that they share their counts in."""
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in pids)
    return set(map(Path, re.findall(r"/\S*/agegender-metrics-[^/\s]+", maps)))


def until_two_serve(server: Server, without: set[int]) -> set[int]:
    deadline = time.monotonic() + PATIENCE
    while len(now := serving_processes(server) - without) < 2:
        assert time.monotonic() < deadline, server.log()
    return now


def count(server: Server, metric: str) -> float:
    """The value of a metric on the port for those."""
    (url,) = re.findall(r"http://[\w.:/]+", server.wait_for_line("metrics are at")["message"])
    (value,) = re.findall(rf"^{metric} (\S+)$", httpx.get(url, trust_env=False, timeout=PATIENCE).text, re.M)
    return float(value)


async def crowd(server: Server, requests: int, meanwhile: float, kill: int) -> Counter[str]:
    """What came of so many requests on 8 connections, where a process is killed after a share of them."""
    outcomes: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=8, max_keepalive_connections=8)
    async with httpx.AsyncClient(
        base_url=server.url, timeout=PATIENCE, limits=limits, trust_env=False
    ) as client:

        async def ask() -> None:
            try:
                answer = await client.post(
                    "/predict?detector=none", content=IMAGE, headers={"Content-Type": "image/png"}
                )
                outcomes[str(answer.status_code)] += 1
            except httpx.TransportError:
                outcomes["connection lost"] += 1
            if outcomes.total() == round(meanwhile * requests):
                os.kill(kill, signal.SIGKILL)

        await asyncio.gather(*(ask() for _ in range(requests)))
    return outcomes


def test_one_that_is_killed_under_load_costs_its_own_requests_and_is_replaced(server: Server) -> None:
    before = until_two_serve(server, without=set())
    victim = min(before)
    outcomes = asyncio.run(crowd(server, requests=400, meanwhile=0.25, kill=victim))
    # Each of the 8 connections can have had one request in that process.
    assert outcomes["connection lost"] <= 8
    assert outcomes["200"] == 400 - outcomes["connection lost"]
    after = until_two_serve(server, without={victim})
    assert len(after - before) == 1
    server.wait_for_line(f"process {victim} ended with exit code -9: replacing it")
    assert server.predict(IMAGE).status_code == 200


def test_they_count_together_and_what_the_dead_counted_stays(server: Server) -> None:
    both = until_two_serve(server, without=set())
    outcomes = asyncio.run(crowd(server, requests=100, meanwhile=1, kill=min(both)))
    assert outcomes["200"] == 100
    answered = r'agegender_requests_total\{route="/predict",status="200"\}'
    assert count(server, answered) == 100
    until_two_serve(server, without={min(both)})
    deadline = time.monotonic() + PATIENCE
    while count(server, "agegender_places") != 2 * 17:  # the dead one's are no longer among them
        assert time.monotonic() < deadline
    assert count(server, answered) == 100
    assert count(server, r'agegender_model_loaded\{model="age_gender_B"\}') == 1


def test_one_that_hangs_is_replaced(server: Server) -> None:
    before = until_two_serve(server, without=set())
    # Not the second one, which may not have given a first sign yet: it would have a minute for that.
    victim = min(before)
    os.kill(victim, signal.SIGSTOP)
    server.wait_for_line(f"process {victim} ended with exit code -9: replacing it")
    assert len(until_two_serve(server, without={victim}) - before) == 1
    assert server.predict(IMAGE).status_code == 200


def test_all_stop_in_order(server: Server) -> None:
    both = until_two_serve(server, without=set())
    (folder,) = counted_in(both)
    assert folder.is_dir()
    assert server.stop() == 0
    assert not any(map(runs, both))
    assert '"level": "error"' not in server.log()
    assert not folder.exists()


def test_none_outlives_its_supervisor(server: Server) -> None:
    both = until_two_serve(server, without=set())
    (left,) = counted_in(both)
    server.process.kill()
    deadline = time.monotonic() + PATIENCE
    while any(map(runs, both)):
        assert time.monotonic() < deadline
    shutil.rmtree(left)


def test_what_keeps_them_from_starting_is_said_once(tmp_path: Path, empty_cache: Path) -> None:
    put_model(tmp_path, "age_gender_B")
    (tmp_path / "age_gender_B.onnx").write_bytes(b"half")
    with pytest.raises(AssertionError, match="no line with") as raised:
        Server(tmp_path, empty_cache, "--processes=3")
    assert str(raised.value).count("is not the file that age_gender_B.json describes") == 1
