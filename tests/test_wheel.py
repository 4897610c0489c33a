"""The wheel, built from the source distribution and installed outside the clone: models and page come along."""

from __future__ import annotations

import json
import sys
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest
from helpers import ASTRONAUT, ROOT, run_program, serving
from tiny_models import put_model

pytest.importorskip("hatchling", reason="needs hatchling: it is in requirements/build.txt")


PYTHON = Path(sys.executable)


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = run_program(*command, cwd=cwd, env={"PATH": "", **environment}, timeout=None)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build_wheel(folder: Path, source: Path, **environment: str) -> Path:
    """Build a wheel into `folder` as `pip install` does."""
    command = ("-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation")
    run(PYTHON, *command, source, cwd=folder, **environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(folder: Path, wheel: Path) -> Path:
    """`bin` of a new environment in `folder` with the wheel; its dependencies are this environment's."""
    run(PYTHON, "-m", "venv", "--without-pip", "environment", cwd=folder)
    offline = ("--no-index", "--no-deps")
    run(PYTHON, "-m", "pip", "--python", "environment", "install", *offline, wheel, cwd=folder)
    (site,) = folder.glob("environment/lib/python*/site-packages")
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path))
    return folder / "environment/bin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(PYTHON, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder, cwd=ROOT)
    (source,) = folder.glob("*.tar.gz")
    return install(folder, build_wheel(folder, source))


def test_its_command_reads_a_photograph(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(ASTRONAUT.read_bytes())
    (answer,) = json.loads(run(installed / "agegender", "predict", "--json", "photo.jpg", cwd=tmp_path))
    assert len(answer["prediction"]["faces"]) == 1
    listed = run(installed / "agegender", "models", cwd=tmp_path)
    for model in ROOT.glob("models/*.onnx"):
        assert model.stem in listed


def test_its_service_answers(installed: Path, tmp_path: Path) -> None:
    with serving(None, tmp_path, program=installed / "agegender", cwd=tmp_path, PYTHONPATH="") as server:
        assert len(server.faces(ASTRONAUT.read_bytes())) == 1
        assert server.client.get("/").headers["content-type"].startswith("text/html")


def test_a_wheel_can_be_built_with_one_model_which_then_is_the_default(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path, ROOT, MODELS="age_gender_A")
    with ZipFile(wheel) as archive:
        models = {Path(name).name for name in archive.namelist() if "/models/" in name}
    assert models == {"age_gender_A.onnx", "age_gender_A.json", "age_gender_A.md"}
    program = install(tmp_path, wheel) / "agegender"
    (answer,) = json.loads(run(program, "predict", "--json", ASTRONAUT, cwd=tmp_path))
    assert answer["prediction"]["model"] == "age_gender_A"


def test_a_wheel_names_the_licences_of_the_weights_that_are_inside(tmp_path: Path) -> None:
    for name in ("app", "hatch_build.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "models").mkdir()
    for model, licence in (("mine", "For research only"), ("free", "CC BY 4.0")):
        put_model(tmp_path / "models", model, licence=licence)
    for chosen, licences in (
        ("", ["Apache-2.0", "CC-BY-4.0", "LicenseRef-weights-for-non-commercial-research"]),
        ("free", ["Apache-2.0", "CC-BY-4.0"]),
    ):
        (folder := tmp_path / f"wheel {chosen}").mkdir()
        with ZipFile(build_wheel(folder, tmp_path, MODELS=chosen)) as archive:
            metadata = Parser().parsestr(archive.read("agegender-0.1.0.dist-info/METADATA").decode())
        assert metadata["License-Expression"].split(" AND ") == licences


def test_a_model_that_is_not_there_ends_the_build_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        AssertionError, match="MODELS: there is no model age_gender_Z in models/; there are: age"
    ):
        build_wheel(tmp_path, ROOT, MODELS="age_gender_A,age_gender_Z")
