"""The site that `make docs` builds: whole, true to what it is made from, and sufficient to itself."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import httpx
import pytest
from agegender.api import problems
from agegender.main import create_app
from agegender.settings import Settings
from helpers import ROOT, Server, build_site


def text(page: Path) -> str:
    """What a reader sees of it, blanks and line breaks as single blanks."""
    content = re.search(r"<article.*</article>", page.read_text(), re.DOTALL)
    assert content is not None
    in_blocks = re.sub(r"<(br|/td|/th|/tr|/p|/h\d)\b", r" \g<0>", content[0])
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", in_blocks)).split())


def plain(description: str) -> str:
    """A description as a reader sees it: without Markdown's marks."""
    return " ".join(description.replace("`", "").split())


def test_every_route_is_described_with_its_parameters(site: Path) -> None:
    shown = text(site / "http.html")
    paths = create_app(Settings()).openapi()["paths"]
    assert {"/predict", "/models", "/metrics"} <= paths.keys()
    for path, methods in paths.items():
        for method, route in methods.items():
            assert f"{method.upper()} {path}" in shown
            for parameter in route.get("parameters", []):
                assert re.search(rf"\b{parameter['name']}\b", shown)
                assert plain(parameter.get("description", "")) in shown


def test_every_problem_is_there_and_says_what_to_do(site: Path) -> None:
    page = site / "http.html"
    kinds = [kind for kind in vars(problems).values() if isinstance(kind, problems.Kind)]
    assert len(kinds) > 15
    for kind in kinds:
        assert f"{kind.type} {kind.status} {kind.title} {plain(kind.example)}" in text(page)
        assert f'id="{kind.name}"' in page.read_text()


def test_every_setting_is_there_with_its_default_and_meaning(site: Path) -> None:
    shown = text(site / "settings.html")
    for name, field in Settings.model_fields.items():
        default = field.default if isinstance(field.default, (str, int, float, Path)) else ""
        row = " ".join(f"AGEGENDER_{name.upper()} {default} {plain(str(field.description))}".split())
        assert row in shown


def test_figures_are_those_of_the_models(site: Path) -> None:
    shown = text(site / "choosing.html")
    for metadata in (ROOT / "models").glob("*.json"):
        metrics = json.loads(metadata.read_text())["metrics"]
        assert f"{metrics['age_mae']:.2f} years" in shown
        assert f"{metrics['gender_accuracy']:.1%}" in shown
        assert f"models/{metadata.stem}.html" in (site / "choosing.html").read_text()
        card = site / f"models/{metadata.stem}.html"
        assert f"UTKFace, {metrics['n']:,} test faces" in text(card)
        for picture in re.findall(r'<img [^>]*src="([^"]+)"', card.read_text()):
            assert (card.parent / picture).is_file()


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


def test_every_command_is_described(site: Path) -> None:
    shown = text(site / "command-line.html")
    for program, commands in (
        ("agegender", ("serve", "predict", "score", "audit", "models", "fetch-detector", "doctor")),
        ("python -m training", ("prepare", "make", "calibrate", "evaluate", "evaluate-service", "compare")),
    ):
        for command in commands:
            assert f"{program} {command} [OPTIONS]" in shown


def test_the_programs_of_the_examples_are_shown_as_they_are(site: Path) -> None:
    shown = text(site / "programs.html") + text(site / "library.html")
    programs = [path for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".mjs", ".sh")]
    assert len(programs) == 6
    for program in programs:
        assert " ".join(program.read_text().split()) in shown


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 12
    for page in pages:
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text()):
            for address in re.findall(r"(?:src|href)=\"?([^\"\s>]+)", tag):
                assert not re.match(r"(https?:)?//", address), f"{page}: {tag}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text())


def test_links_to_elsewhere_lead_somewhere(site: Path) -> None:
    links = {
        link
        for page in site.rglob("*.html")
        for link in re.findall(r'href="(https?://[^"#]+)', page.read_text())
        if "//localhost" not in link
    }
    assert "https://www.rfc-editor.org/rfc/rfc9457" in links
    for link in sorted(links):
        try:
            answer = httpx.get(link, follow_redirects=True, timeout=10)
        except httpx.HTTPError:
            pytest.skip(f"{link} cannot be reached from here")
        assert answer.status_code not in (404, 410), link


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# Questions\n\n[Which?](index.md#which-one)\n")
    # The same rules, for a site of one page.
    (tmp_path / "mkdocs.yml").write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\nhooks: []\nnav: [index.md]\nextra_css: []\n"
    )
    built = build_site(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert built.returncode != 0
    assert "contains a link 'index.md#which-one', but there is no such anchor on this page" in built.stderr
