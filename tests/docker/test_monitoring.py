"""docker/monitoring: its figures are there, and its alerts fire when they should."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from engine import run
from helpers import ASTRONAUT, ROOT, serving
from prometheus_client.parser import text_string_to_metric_families

MONITORING = ROOT / "docker/monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
RULES = "alerts.yml"

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")),
    reason="needs prometheus and promtool: Debian's package prometheus",
)


def test_whatever_is_asked_for_is_counted(mounted_models: Path, tmp_path: Path) -> None:
    photograph = ASTRONAUT.read_bytes()
    with serving(mounted_models, tmp_path, "--workers=1", "--queue-size=0") as server:
        assert server.predict(photograph, detector="none").status_code == 200
        assert server.predict(b"no image").status_code == 400
        families = text_string_to_metric_families(server.client.get("/metrics").text)
    counted = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    rules = re.sub(r'summary: ".*"', "", (MONITORING / RULES).read_text())
    expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    wanted = re.findall(r"\b(agegender_\w+)(?:\{(.*?)\})?", " ".join([*expressions, rules]))
    assert len(wanted) > len(expressions)
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
