"""The wheel, built from the source distribution and installed outside the clone: models and page come along."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ASTRONAUT, ROOT, serving

pytest.importorskip("hatchling", reason="needs hatchling: it is in requirements/build.txt")


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of a new environment with the wheel; its dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("wheel")
    python = Path(sys.executable)
    run(python, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder, cwd=ROOT)
    (source,) = folder.glob("*.tar.gz")
    offline = ("--no-index", "--no-deps")
    run(python, "-m", "pip", "wheel", *offline, "--no-build-isolation", source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(python, "-m", "venv", "--without-pip", "environment", cwd=folder)
    run(python, "-m", "pip", "--python", "environment", "install", *offline, wheel, cwd=folder)
    (site,) = folder.glob("environment/lib/python*/site-packages")
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path))
    return folder / "environment/bin"


def test_its_command_reads_a_photograph(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(ASTRONAUT.read_bytes())
    (answer,) = json.loads(run(installed / "agegender", "predict", "--json", "photo.jpg", cwd=tmp_path))
    assert len(answer["prediction"]["faces"]) == 1
    listed = run(installed / "agegender", "models", cwd=tmp_path)
    for model in ROOT.glob("models/*.onnx"):
        assert model.stem in listed


def test_its_library_reads_a_photograph(installed: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from agegender import Predictor; print(len(Predictor().predict(sys.argv[1]).faces))"
    )
    assert run(installed / "python", "-c", program, ASTRONAUT, cwd=tmp_path) == "1\n"


def test_its_service_answers(installed: Path, tmp_path: Path) -> None:
    with serving(None, tmp_path, program=installed / "agegender", cwd=tmp_path, PYTHONPATH="") as server:
        assert len(server.faces(ASTRONAUT.read_bytes())) == 1
        assert server.client.get("/").headers["content-type"].startswith("text/html")
