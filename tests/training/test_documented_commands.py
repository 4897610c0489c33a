"""The commands of the page on training, as they stand there, on a small folder of faces that are made up."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from face_images import write_chips
from helpers import ASTRONAUT, PATIENCE, ROOT, environment

pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

SERVE = ".venv/bin/agegender serve "


def commands() -> Iterator[str]:
    """Those that make no environment: that of this test has all there is to install."""
    page = (ROOT / "docs/training.md").read_text()
    for block in re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for command in re.findall(r"^\$ ((?:.*\\\n)*.*)\n", block, re.MULTILINE):
            if not command.startswith("make "):
                yield command


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the page takes for granted: a clone with an environment and models, and faces of one's own."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "examples").symlink_to(ASTRONAUT.parent)
    (tmp_path / "training").symlink_to(ROOT / "training")
    (tmp_path / "models").mkdir()
    for served in (*ROOT.glob("models/*.onnx"), *ROOT.glob("models/*.json")):
        shutil.copy(served, tmp_path / "models")
    write_chips(tmp_path / "data/mine/faces", 300)
    return tmp_path


def test_from_a_folder_of_faces_to_an_answer(clone: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    env = environment(clone / "cache", AGEGENDER_PORT="0", COLUMNS="120")
    said: dict[str, str] = {}
    server: subprocess.Popen[str] | None = None
    address = ""
    try:
        for command in commands():
            if command.startswith(SERVE):
                server = subprocess.Popen(
                    ["sh", "-c", f"exec {command}"], cwd=clone, env=env, stderr=subprocess.PIPE, text=True
                )
                address = listening(server)
                continue
            ended = subprocess.run(
                ["sh", "-c", command.replace("localhost:8000", address)],
                cwd=clone,
                env=env,
                capture_output=True,
                text=True,
                check=False,
            )
            assert ended.returncode == 0, f"{command}\n{ended.stderr}"
            said[command] = ended.stdout
    finally:
        if server is not None:
            server.terminate()
            server.wait(PATIENCE)
    steps = [
        " ".join(command.split()[: 4 if "-m training" in command else 2]).removeprefix(".venv/bin/")
        for command in said
    ]
    assert steps == [
        "sed -e",
        "python -m training make",
        "python -m training calibrate",
        "python -m training evaluate",
        "curl -F",
        "cp data/mine/models/age_gender_mine.onnx",
        "agegender models",
    ]
    answer = json.loads(next(output for command, output in said.items() if command.startswith("curl")))
    assert (answer["model"], len(answer["faces"])) == ("age_gender_mine", 1)
    assert "age_gender_mine " in said[".venv/bin/agegender models"]
    made = {path.name for path in (clone / "data/mine").iterdir()}
    assert made == {"faces", "mine.toml", "cache", "runs", "models"}
    suffixes = {path.suffix for path in (clone / "data/mine/models").glob("age_gender_mine.*")}
    assert suffixes == {".onnx", ".json", ".md", ".keras"}


def listening(server: subprocess.Popen[str]) -> str:
    """Host and port, once the server says them."""
    assert server.stderr is not None
    for line in server.stderr:
        found = re.search(r"listening on http://([\w.:]+)", line)
        if found:
            return found[1]
    raise AssertionError("the server ended before it listened")
