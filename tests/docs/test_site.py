"""The site that `make docs` builds: whole, and filled in with what is known elsewhere."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from agegender.api.problems import OVERLOADED
from helpers import ROOT, Server


def text(page: Path) -> str:
    """What a reader sees of it, blanks and line breaks as single blanks."""
    content = re.search(r"<article.*</article>", page.read_text(), re.DOTALL)
    assert content is not None
    in_blocks = re.sub(r"<(br|/td|/th|/tr|/p|/h\d)\b", r" \g<0>", content[0])
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", in_blocks)).split())


def test_its_pages_are_filled_in(site: Path) -> None:
    example = (ROOT / "examples/predict.py").read_text()
    figures = json.loads((ROOT / "models/age_gender_B.json").read_text())["metrics"]
    for name, words in {
        "http": f"{OVERLOADED.type} 503 {OVERLOADED.title} {OVERLOADED.example}",
        "settings": "AGEGENDER_RATE_LIMIT",
        "command-line": "agegender fetch-detector [OPTIONS]",
        "programs": " ".join(example.split()),
        "choosing": f"{figures['age_mae']:.2f} years",
    }.items():
        assert words in text(site / f"{name}.html")
    pages = list(site.rglob("*.html"))
    assert len(pages) > 12
    for page in pages:
        assert "{{" not in text(page)
        for picture in re.findall(r'<img [^>]*src="([^":]+)"', page.read_text()):
            assert (page.parent / picture).is_file()


def test_every_metric_and_every_alert_is_explained(site: Path, server: Server) -> None:
    shown = text(site / "production.html")
    metrics = re.findall(
        r"^# TYPE (agegender_\w+)(?<!_created) ", server.client.get("/metrics").text, re.MULTILINE
    )
    alerts = re.findall(r"alert: (\w+)", (ROOT / "docker/monitoring/alerts.yml").read_text())
    assert len(metrics) > 8
    assert len(alerts) >= 3
    for name in (*metrics, *alerts):
        assert re.search(rf"\b{name}\b", shown), name
