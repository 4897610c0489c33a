"""The programs of `examples/`, which the documentation shows, with a real service."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from helpers import ASTRONAUT, GRACE_HOPPER, ROOT, YUNET, Server, environment, run_program, without_timings

EXAMPLES = ROOT / "examples"
PYTHON = [sys.executable, EXAMPLES / "predict.py"]
CURL = pytest.param(
    ["sh", EXAMPLES / "predict.sh"],
    marks=pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl"),
    id="curl",
)
NODE = pytest.param(
    ["node", EXAMPLES / "predict.mjs"],
    marks=pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js"),
    id="node",
)


def lines(server: Server, photograph: Path, **query: str) -> list[tuple[float, float, float, str, float]]:
    """Age, low and high end of the interval, gender and its probability in percent, of each face."""
    return [
        (
            *(face["age"][name] for name in ("years", "low", "high")),
            face["gender"]["label"],
            pytest.approx(100 * face["gender"]["probability"], abs=0.51),
        )
        for face in server.faces(photograph.read_bytes(), **query)
    ]


def printed(output: str) -> list[tuple[float, float, float, str, float]]:
    return [
        (float(years), float(low), float(high), gender, float(percent))
        for years, low, high, gender, percent in re.findall(
            r"([\d.]+) years \(([\d.]+)-([\d.]+)\), (\w+) (\d+)%$", output, re.MULTILINE
        )
    ]


@pytest.mark.parametrize("program", [pytest.param(PYTHON, id="python"), NODE, CURL])
def test_programs_print_the_answer_of_the_service_or_why_there_is_none(
    server: Server, program: list[str | Path]
) -> None:
    ended = run_program(*program, ASTRONAUT, server.url)
    assert (ended.returncode, ended.stderr) == (0, "")
    if program[0] == "sh":  # curl prints the answer as it comes
        answer = server.predict(ASTRONAUT.read_bytes()).json()
        assert without_timings(json.loads(ended.stdout)) == without_timings(answer)
    else:
        assert printed(ended.stdout) == lines(server, ASTRONAUT)
        assert len(ended.stdout.splitlines()) == 1
    failed = run_program(*program, ROOT / "README.md", server.url)
    assert failed.returncode != 0
    assert "Send a JPEG" in failed.stdout + failed.stderr


def test_the_client_goes_on_after_a_file_that_is_no_photograph(server: Server) -> None:
    files = (ROOT / "README.md", ASTRONAUT, GRACE_HOPPER)
    ended = run_program(sys.executable, EXAMPLES / "with_client.py", server.url, *files)
    assert (ended.returncode, ended.stderr) == (0, "")
    refused, *faces = ended.stdout.splitlines()
    assert refused.startswith(f"{ROOT / 'README.md'}: ")
    assert printed("\n".join(faces)) == lines(server, ASTRONAUT) + lines(server, GRACE_HOPPER)


def test_the_client_refuses_an_invalid_address_in_a_sentence() -> None:
    ended = run_program(sys.executable, EXAMPLES / "with_client.py", ASTRONAUT)
    assert ended.returncode == 1
    sentence = f"The URL of the service must be like http://localhost:8000, not {str(ASTRONAUT)!r}."
    assert ended.stderr == f"{sentence}\n"


def test_the_library_gives_the_answer_of_the_service(
    server: Server, models_folder: Path, empty_cache: Path
) -> None:
    settings = environment(empty_cache, AGEGENDER_MODELS=str(models_folder))
    if YUNET.exists():  # as for the server
        settings["AGEGENDER_YUNET_PATH"] = str(YUNET)
    ended = run_program(sys.executable, EXAMPLES / "as_library.py", ASTRONAUT, GRACE_HOPPER, env=settings)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert printed(ended.stdout) == lines(server, ASTRONAUT) + lines(server, GRACE_HOPPER)


def test_the_other_code_of_the_page_on_the_library_runs(models_folder: Path, empty_cache: Path) -> None:
    page = (ROOT / "docs/library.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    shown = "\n".join(blocks).replace("/srv/models", str(models_folder)).replace("photo.jpg", str(ASTRONAUT))
    program = f"""
from agegender import Predictor
predictor = Predictor()
photographs = [{str(ASTRONAUT)!r}, {str(GRACE_HOPPER)!r}]
{shown}
for answer in answers:
    print(answer.model, len(answer.faces))
"""
    env = environment(empty_cache, AGEGENDER_MODELS=str(models_folder))
    ended = run_program(sys.executable, "-c", program, env=env)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(blocks) == 4
    assert ended.stdout == "age_gender_A 1\nage_gender_A 1\n"
