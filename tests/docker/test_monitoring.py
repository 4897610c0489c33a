"""docker/monitoring, read by Prometheus itself over a service that has made predictions and refused some."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine import run, wait_until
from helpers import ASTRONAUT, ROOT, Server, serving
from prometheus_client.parser import text_string_to_metric_families

MONITORING = ROOT / "docker/monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
EXPRESSIONS = {
    (panel["title"], target.get("legendFormat", "")): target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
RULES = "alerts.yml"

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")),
    reason="needs prometheus and promtool: Debian's package prometheus",
)


def test_each_file_is_where_the_others_look_for_it() -> None:
    mounted = dict(
        re.findall(r"- \./(docker/monitoring/\S+):(/\S+):ro", (ROOT / "docker-compose.yml").read_text())
    )
    assert {ROOT / file for file in mounted} == set(MONITORING.iterdir())
    places = set(mounted.values())
    home = re.search(r"^default_home_dashboard_path = (\S+)$", (MONITORING / "grafana.ini").read_text(), re.M)
    folder = re.search(r"path: (\S+)$", (MONITORING / "dashboards.yaml").read_text(), re.M)
    source = re.search(r"uid: (\S+)$", (MONITORING / "datasource.yaml").read_text(), re.M)
    rules = re.search(r"rule_files: \[(\S+)\]$", (MONITORING / "prometheus.yml").read_text(), re.M)
    assert home is not None
    assert folder is not None
    assert source is not None
    assert rules is not None
    assert home[1] in places
    assert str(Path(home[1]).parent) == folder[1]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source[1]}
    assert f"/etc/prometheus/{rules[1]}" in places


@pytest.fixture(scope="module")
def asked(mounted_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with one worker and no queue."""
    cache = tmp_path_factory.mktemp("cache")
    with serving(mounted_models, cache, "--workers=1", "--queue-size=0") as server:
        yield server


def ask_in_every_way(server: Server) -> None:
    """A face, none, no image, and more at a time than are taken."""
    photograph = ASTRONAUT.read_bytes()
    assert server.predict(photograph, detector="none").status_code == 200
    assert server.predict(photograph, min_confidence=1).json()["faces"] == []
    assert server.predict(b"no image").status_code == 400
    with ThreadPoolExecutor() as threads:
        answers = threads.map(server.predict, [photograph] * 4)
    assert {answer.status_code for answer in answers} <= {200, 503}


def test_whatever_is_asked_for_is_counted(asked: Server) -> None:
    ask_in_every_way(asked)
    families = text_string_to_metric_families(asked.client.get("/metrics").text)
    counted = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    rules = re.sub(r'summary: ".*"', "", (MONITORING / RULES).read_text())
    wanted = re.findall(r"\b(agegender_\w+)(?:\{(.*?)\})?", " ".join([*EXPRESSIONS.values(), rules]))
    assert len(wanted) > len(EXPRESSIONS)
    for name, matchers in wanted:
        assert set(re.findall(r"(\w+)=", matchers)) <= counted[name], name


@needs_prometheus
def test_prometheus_finds_nothing_to_say(tmp_path: Path) -> None:
    shutil.copytree(MONITORING, tmp_path, dirs_exist_ok=True)
    output = run("promtool", "check", "config", "--lint=all", "--lint-fatal", tmp_path / "prometheus.yml")
    assert f"SUCCESS: {tmp_path / 'prometheus.yml'} is valid" in output
    assert "SUCCESS: 3 rules found" in output


UP = 'up{job="agegender", instance="agegender:8000"}'
DOWN, REFUSES, FAILS = "AgegenderDown", "AgegenderRefuses", "AgegenderFails"
# Series by the minute, and what fires after ten.
CASES: dict[str, tuple[dict[str, str], set[str]]] = {
    "all is well": (
        {
            UP: "1x20",
            'agegender_requests_total{route="/predict", status="200"}': "0+99x20",
            'agegender_requests_total{route="/predict", status="503"}': "0+1x20",
            # What asks for no prediction is no measure of how many are refused.
            'agegender_requests_total{route="/metrics", status="200"}': "0+4x20",
        },
        set(),
    ),
    "it is gone": ({UP: "1x5 0x15"}, {DOWN}),
    "it was gone for a moment": ({UP: "1x9 0 1x10"}, set()),
    "every tenth is refused": (
        {
            'agegender_requests_total{route="/predict", status="200"}': "0+90x20",
            'agegender_requests_total{route="/predict", status="503"}': "0+10x20",
            'agegender_requests_total{route="/metrics", status="200"}': "0+900x20",
        },
        {REFUSES},
    ),
    "one failed": ({'agegender_requests_total{route="/predict", status="500"}': "_x8 1x12"}, {FAILS}),
    "one more failed": ({'agegender_requests_total{route="/predict", status="500"}': "1x8 2x12"}, {FAILS}),
    "an image of a batch failed": ({'agegender_batch_errors_total{status="500"}': "0x8 1x12"}, {FAILS}),
    "images of batches were no images": (
        {
            'agegender_batch_errors_total{status="500"}': "0x20",
            'agegender_batch_errors_total{status="400"}': "0+9x20",
        },
        set(),
    ),
    "they failed long ago": ({'agegender_requests_total{route="/predict", status="500"}': "7x20"}, set()),
}


@needs_prometheus
@pytest.mark.parametrize("case", CASES)
def test_it_alerts_when_it_should(tmp_path: Path, case: str) -> None:
    series, fires = CASES[case]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "10m",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in fires],
            }
        ],
    }
    rules = shutil.copy(MONITORING / RULES, tmp_path)
    unit = tmp_path / "test.yml"
    unit.write_text(json.dumps({"rule_files": [rules], "evaluation_interval": "1m", "tests": [test]}))
    run("promtool", "test", "rules", unit)


class Prometheus:
    """A server whose configuration is ours, but for what it scrapes and how often."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, trust_env=False)

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expression: str, at: float) -> dict[str, float]:
        """The result at that time, by the labels' values, "" where there is one without labels."""
        # The dashboard has four scrapes in it; more let a slow machine come to its second one.
        filled = expression.replace("$__rate_interval", "8s")
        answer = self._client.get("/api/v1/query", params={"query": filled, "time": at}).json()
        assert answer["status"] == "success", (expression, answer)
        found: list[Any] = answer["data"]["result"]
        return {",".join(each["metric"].values()): float(each["value"][1]) for each in found}


@contextlib.contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    shutil.copytree(MONITORING, folder, dirs_exist_ok=True)
    config = folder / "prometheus.yml"
    text = config.read_text()
    for ours, here in (("agegender:8000", target), ("scrape_interval: 15s", "scrape_interval: 1s")):
        assert ours in text
        text = text.replace(ours, here)
    config.write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            running = Prometheus(f"http://{address}")
            wait_until(running.is_ready, "Prometheus is ready")
            yield running
        finally:
            process.terminate()


MAY_BE_ZERO = {"{{alertname}}", "waited too long", "failed (500)", "running", "waiting", "let in"}


@needs_prometheus
def test_every_panel_shows_something(asked: Server, tmp_path: Path) -> None:
    shown: dict[tuple[str, str], dict[str, float]] = {}
    by_status = "Predictions asked for, by status", "{{status}}"

    def all_is_shown() -> bool:
        ask_in_every_way(asked)
        now = time.time()
        shown.update({panel: server.query(expression, now) for panel, expression in EXPRESSIONS.items()})
        # More at a time than there are places: some are refused.
        return set(shown[by_status]) == {"200", "400", "503"} and all(
            found and all(math.isfinite(n) and (n > 0 or panel[1] in MAY_BE_ZERO) for n in found.values())
            for panel, found in shown.items()
        )

    with prometheus(tmp_path, asked.url.removeprefix("http://")) as server:
        try:
            wait_until(all_is_shown, "every panel shows something")
        finally:
            print(json.dumps({" / ".join(panel): found for panel, found in shown.items()}, indent=2))

    assert shown["Service", ""] == {"": 1}
    assert set(shown["Version", "{{version}}"]) == {version("agegender")}
    assert shown["Models", "{{model}}"] == {"age_gender_A": 1, "age_gender_B": 1}
    assert shown["Alerts", "{{alertname}}"] == {"none": 0}

    not_made = "Predictions not made, of those asked for"
    assert shown[not_made, "refused"][""] < 1
    assert shown[not_made, "wrongly asked (4xx)"][""] < 1
    assert shown[not_made, "waited too long"] == shown[not_made, "failed (500)"] == {"": 0}

    p50, p95, p99 = (shown[f"Time of a prediction, {p}", "{{stage}}"] for p in ("p50", "p95", "p99"))
    assert set(p50) == {"decode", "detect", "predict", "total"}
    for stage in p50:
        assert p50[stage] <= p95[stage] <= p99[stage] <= 10
    assert p50["total"] >= p50["decode"]

    in_work = "Requests in work, and places"
    assert shown[in_work, "places"] == {"": 1}
    assert shown[in_work, "waiting"] == {"": 0}
    assert shown[in_work, "running"][""] in (0, 1)
    faces = shown["Faces per image", "{{le}}"]
    assert faces["0.0"] < faces["1.0"] == faces["+Inf"]
