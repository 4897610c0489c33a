"""`agegender audit`: a model measured on somebody's own labelled photographs, and calibrated on them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agegender import Predictor
from agegender.cli import commands
from agegender.settings import Settings
from helpers import (
    ASTRONAUT,
    GRACE_HOPPER,
    ROOT,
    YUNET,
    YUNET_OPTIONS,
    decoded,
    grey,
    needs_yunet,
    png,
    serving,
    side_by_side,
)
from typer.testing import CliRunner, Result

Audit = Callable[..., Result]


@pytest.fixture
def audit(models_folder: Path, empty_cache: Path, tmp_path: Path) -> Audit:
    """Calls `agegender audit` in this process, with the photographs and the table in `tmp_path`."""

    def run(*options: object, **extra: str) -> Result:
        environment = {"XDG_CACHE_HOME": str(empty_cache), "AGEGENDER_MODELS": str(models_folder), **extra}
        arguments = ["audit", str(tmp_path), str(tmp_path / "labels.csv"), *map(str, options)]
        ended = CliRunner().invoke(commands.app, arguments, env=environment)
        assert ended.exception is None or isinstance(ended.exception, SystemExit)
        return ended

    return run


def table(folder: Path, text: str) -> None:
    (folder / "labels.csv").write_text(text)


def figures(report: dict[str, Any], column: str | None, value: str) -> dict[str, float]:
    """What was measured of a group: the value of each measure."""
    (group,) = (each for each in report["groups"] if (each["column"], each["value"]) == (column, value))
    for figure in group["figures"].values():
        assert figure["low"] <= figure["value"] <= figure["high"]
    return {name: figure["value"] for name, figure in group["figures"].items()}


def test_errors_are_measured_overall_and_by_group(audit: Audit, tmp_path: Path) -> None:
    # The tiny model takes a grey picture of level 51, 102, 153 or 204 for 20, 40, 60 or 80 years, with an interval of
    # 2.6 years to either side, and for a woman up to 127.
    for level in (51, 102, 153, 204):
        (tmp_path / f"{level}.png").write_bytes(png(grey(level)))
    (tmp_path / "junk.png").write_text("this is no image")
    table(
        tmp_path,
        "\ufefffile;Age;gender;light\n51.png;22;Female;dim\n102.png;38 - 45;;dim\n153.png;50.0;m;lit\n204.png;;f;lit\n"
        "junk.png;20;m;lit\nmissing.png;20;m;lit\n",
    )
    ended = audit("--detector=none", f"--json={tmp_path}/report.json")
    assert ended.exit_code == 0
    assert [line.partition(": ")[0] for line in ended.stderr.splitlines()] == ["junk.png", "missing.png"]
    report = json.loads((tmp_path / "report.json").read_text())
    counted = [report[key] for key in ("model", "coverage", "photographs", "faces", "without_face")]
    assert counted == ["age_gender_B", 0.8, 6, 4, []]
    assert list(report["unreadable"]) == ["junk.png", "missing.png"]
    assert figures(report, None, "all") == pytest.approx(
        {
            "age_mae": (2 + 0 + 10) / 3,
            "age_bias": (-2 + 0 + 10) / 3,
            "age_within_5": 2 / 3,
            "gender_accuracy": 2 / 3,
            # Of 38 to 45, as of a bell of 2 years around 40, 38 to 42 is 0.885.
            "interval_coverage": (1 + 0.885 + 0) / 3,
        },
        abs=0.01,
    )
    assert figures(report, "light", "dim")["age_bias"] == pytest.approx(-1, abs=0.01)
    assert figures(report, "light", "lit")["gender_accuracy"] == 0.5
    assert figures(report, "gender", "male") == pytest.approx(
        {"age_mae": 10, "age_bias": 10, "age_within_5": 0, "gender_accuracy": 1, "interval_coverage": 0},
        abs=0.01,
    )
    lines = ended.stdout.splitlines()
    (overall,) = (line.split() for line in lines if line.startswith("all"))
    assert overall == ["all", "4", "4.0", "+2.7", "66.7%", "66.7%", "62.9%"]
    wider = audit("--detector=none", "--coverage=0.99", f"--json={tmp_path}/wide.json")
    assert wider.exit_code == 0
    # 22 is 1 deviation of the model's bell away from 20 years, and 50 is 5 away from 60.
    wide = json.loads((tmp_path / "wide.json").read_text())
    assert figures(wide, None, "all")["interval_coverage"] == pytest.approx(2 / 3, abs=0.01)


@needs_yunet
def test_photographs_are_read_as_predict_reads_them_and_of_several_faces_the_largest_counts(
    audit: Audit, tmp_path: Path
) -> None:
    shutil.copy(ASTRONAUT, tmp_path / "collins.jpg")
    (tmp_path / "both.png").write_bytes(png(side_by_side()))
    (tmp_path / "nobody.png").write_bytes(png(grey(90, 320, 240)))
    table(tmp_path, "file,age,gender\ncollins.jpg,42,f\nboth.png,78,f\nnobody.png,30,m\n")
    # C is sure of both genders; B is not, of one of them.
    real = {
        "AGEGENDER_MODELS": str(ROOT / "models"),
        "AGEGENDER_DEFAULT_MODEL": "age_gender_C",
        "AGEGENDER_YUNET_PATH": str(YUNET),
    }
    ended = audit(f"--json={tmp_path}/report.json", **real)
    assert (ended.exit_code, ended.stderr) == (0, "")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["faces"], report["several_faces"], report["without_face"]) == (2, 1, ["nobody.png"])
    predictor = Predictor(Settings(models=ROOT / "models", default_model="age_gender_C", yunet_path=YUNET))
    collins, hopper = (predictor.predict(photograph).faces[0] for photograph in (ASTRONAUT, GRACE_HOPPER))
    assert hopper.age.years > 55
    measured = figures(report, None, "all")
    errors = np.array([collins.age.years - 42, hopper.age.years - 78])
    assert measured["age_mae"] == pytest.approx(
        np.abs(errors).mean(), abs=0.3
    )  # another crop of the same face
    assert measured["age_bias"] == pytest.approx(errors.mean(), abs=0.3)
    assert measured["gender_accuracy"] == 1


def test_a_column_with_too_many_values_makes_no_groups(audit: Audit, tmp_path: Path) -> None:
    (tmp_path / "51.png").write_bytes(png(grey(51)))
    table(tmp_path, "file,age,person\n" + "".join(f"51.png,20,person {i}\n" for i in range(40)))
    ended = audit("--detector=none")
    assert ended.exit_code == 0
    assert "too many values for groups: person" in ended.stdout
    assert "person 7" not in ended.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "labels.csv cannot be read (No such file or directory)."),
        (
            "path,years\na.jpg,20\n",
            "needs a column `file`, and `age` or `gender` or both; it has: path, years.",
        ),
        ("file,race\na.jpg,Black\n", "needs a column `file`, and `age` or `gender` or both"),
        ("file,age,gender\n", "labels.csv has a heading but no rows"),
        ("", "needs a column `file`"),
        (
            "file,age\na.jpg,20\nb.jpg,old\n",
            "line 3: the age 'old' must be a number, a range such as 20-29",
        ),
        ("file,age\na.jpg,29-20\n", "line 2: the age '29-20' must be from 0 to 120"),
        ("file,age\na.jpg,200\n", "line 2: the age '200' must be from 0 to 120"),
        (
            'file,age\n"a.jpg,20\n' + "b.jpg,20\n" * 20_000,
            "field larger than field limit (131072): look for a quote that is not closed.",
        ),
        ("file,gender\na.jpg,x\n", "line 2: the gender 'x' must be male (m), female (f) or empty."),
        (
            "file,age\na.jpg,20\n",
            "No face was found in the photographs of the table. a.jpg: The file cannot be read (No such",
        ),
    ],
)
def test_what_is_wrong_with_the_table_is_a_sentence(
    audit: Audit, tmp_path: Path, text: str | None, said: str
) -> None:
    if text is not None:
        table(tmp_path, text)
    ended = audit()
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr.startswith("agegender: ")
    assert said in ended.stderr


@pytest.fixture
def strangers(tmp_path: Path) -> list[dict[str, Any]]:
    """A table of 150 faces: ages scatter four times as far as the tiny model promises, a fifth of genders is wrong."""
    random = np.random.default_rng(0)
    rows = []
    for level in random.integers(60, 200, 150):
        (tmp_path / f"{level}.png").write_bytes(png(grey(int(level))))
        male = (level > 127) == (random.random() < 0.8)
        age = round(float(np.clip(level * 100 / 255 + 8 * random.normal(), 0, 100)))
        rows.append({"file": f"{level}.png", "age": age, "gender": "m" if male else "f"})
    with (tmp_path / "labels.csv").open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def test_the_service_answers_with_the_calibration_on_those_faces(
    audit: Audit, strangers: list[dict[str, Any]], models_folder: Path, tmp_path: Path
) -> None:
    own, report = tmp_path / "own", tmp_path / "report.json"
    ended = audit("--detector=none", f"--recalibrate={own}", f"--json={report}")
    assert ended.exit_code == 0
    assert f"AGEGENDER_MODELS={own}" in ended.stdout
    assert figures(json.loads(report.read_text()), None, "all")["interval_coverage"] < 0.4
    again = audit("--detector=none", f"--json={report}", AGEGENDER_MODELS=str(own))
    assert again.exit_code == 0
    assert figures(json.loads(report.read_text()), None, "all")["interval_coverage"] == pytest.approx(
        0.8, abs=0.05
    )

    before = Predictor(Settings(models=models_folder)).predict(png(grey(151)), detector="none").faces[0]
    with serving(own, tmp_path / "cache", "--workers=1", *YUNET_OPTIONS) as server:
        (after,) = server.faces(png(grey(151)), detector="none")
        (model,) = server.client.get("/models").json()["models"]
    assert after["age"]["years"] == pytest.approx(before.age.years, abs=0.5)
    width = after["age"]["high"] - after["age"]["low"]
    assert width == pytest.approx(4 * (before.age.high - before.age.low), rel=0.25)
    assert before.gender.probability > 0.99
    assert after["gender"] == {"label": "male", "probability": pytest.approx(0.9, abs=0.1)}
    assert after["gender"]["probability"] < 0.99
    assert "150 other faces" in model["description"]


def test_a_folder_that_is_there_and_too_few_faces_are_refused(
    audit: Audit, strangers: list[dict[str, Any]], tmp_path: Path
) -> None:
    refused = audit("--detector=none", f"--recalibrate={tmp_path}")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == f"agegender: {tmp_path} already exists: name a new folder for the model.\n"
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    table(tmp_path, "\n".join(lines[:80]))
    few = audit("--detector=none", f"--recalibrate={tmp_path}/own")
    assert few.exit_code == 1
    assert (
        "needs at least 100 faces with an age or with a gender: 79 have an age, 79 have a gender."
        in few.stderr
    )
    assert not (tmp_path / "own").exists()


def test_the_figures_are_drawn(audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="needs Matplotlib: it is in requirements/dev.txt")
    (tmp_path / "51.png").write_bytes(png(grey(51)))
    table(tmp_path, "file,age,gr\u00f6\u00dfe\n51.png,20,gro\u00df\n51.png,30,klein\n")
    ended = audit("--detector=none", f"--plot={tmp_path}/plot.png")
    assert ended.exit_code == 0
    drawn = decoded((tmp_path / "plot.png").read_bytes())
    assert drawn.shape[1] > 1000
    blue = np.abs(drawn.astype(int) - (0xB0, 0x6C, 0x2B)).max(axis=2) < 10
    assert blue.sum() > 500
    nowhere = audit("--detector=none", f"--plot={tmp_path}/nowhere/plot.png")
    assert (nowhere.exit_code, "The audit cannot be written (" in nowhere.stderr) == (1, True)
    monkeypatch.setattr(commands, "find_spec", lambda _: None)
    without = audit(f"--plot={tmp_path}/plot.png")
    assert (without.exit_code, without.stdout) == (1, "")
    assert "matplotlib is not installed: add the extra audit" in without.stderr
