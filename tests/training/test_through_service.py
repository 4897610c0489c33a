"""Original images through a running service."""

from __future__ import annotations

import json
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from face_images import write_chips
from helpers import ASTRONAUT, YUNET, Server, needs_yunet
from tiny_models import put_model
from typer.testing import CliRunner, Result

pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

from agegender.inference.yunet import YuNet

from training import data
from training.cli import app
from training.data import UTKFACE
from training.labels import Label
from training.splits import split_of
from training.through_service import Photograph, most_central_face, summarise

B = "age_gender_B"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate-service", B, *arguments])


def printed(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    measured: dict[str, Any] = json.loads(result.stdout[result.stdout.index("{") :])
    return measured


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chips, among them the astronaut's face, and one photograph of her that FairFace's table describes.

    Beside that a blank image and a broken one, all three in the test split; and the cache made of it all.
    """
    folder = tmp_path_factory.mktemp("originals")
    write_chips(folder / "UTKFace", 40)
    head = cv2.resize(cv2.imread(str(ASTRONAUT))[:250, 100:350], (200, 200), interpolation=cv2.INTER_AREA)
    name = next(name for i in count() if split_of(name := f"41_1_0_{i:017d}.jpg.chip.jpg") == "test")
    cv2.imwrite(str(folder / "UTKFace" / name), head)
    (folder / "fairface/train").mkdir(parents=True)
    files = [file for i in range(200) if split_of(f"fairface/{(file := f'train/{i}.jpg')}") == "test"][:3]
    shutil.copy(ASTRONAUT, folder / "fairface" / files[0])
    cv2.imwrite(str(folder / "fairface" / files[1]), np.full((200, 200, 3), 90, np.uint8))
    (folder / "fairface" / files[2]).write_bytes(b"junk")
    rows = "".join(f"{file},30-39,Female,White,False\n" for file in files)
    (folder / "fairface/fairface_label_train.csv").write_text(f"file,age,gender,race,service_test\n{rows}")
    if YUNET.exists():
        data.prepare(folder / "cache", folder / "UTKFace", [folder / "fairface"], YuNet(YUNET))
    return folder


@needs_yunet
def test_each_detector_is_asked_for_every_image_of_the_split(originals: Path, server: Server) -> None:
    faces = data.load(originals / "cache")
    given = [f"--{name.lower()}={originals / name}" for name in ("UTKFace", "fairface")]
    measured = printed(call(*given, f"--url={server.url}", f"--cache={originals / 'cache'}", "--json"))

    utkface = measured["utkface"]
    rows = faces.indices("test", UTKFACE)
    assert (utkface["split"], utkface["images"], utkface["in_common"]) == ("test", len(rows), 1)
    none, yunet, haar = utkface["through"]
    assert (none["detector"], yunet["detector"], haar["detector"]) == ("none", "yunet", "haar")
    # The tiny model says of a crop that it is as old as it is bright.
    bright = np.array([faces.crops[row].mean() for row in rows]) * 100 / 255
    assert none["missed"] == []
    assert none["figures"]["age_mae"]["value"] == pytest.approx(
        np.abs(bright - faces.age_low[rows]).mean(), abs=0.3
    )
    right = (bright > 50) == faces.male[rows]
    assert none["figures"]["gender_accuracy"]["value"] == pytest.approx(right.mean(), abs=1e-4)
    # Blotches are no face to a detector, so whatever is right, is right of the astronaut.
    assert yunet["missed"] == haar["missed"]
    assert len(haar["missed"]) == len(rows) - 1
    assert haar["common"]["gender_accuracy"]["value"] in (0, 1)
    assert haar["figures"]["gender_accuracy"]["value"] == pytest.approx(
        haar["common"]["gender_accuracy"]["value"] / len(rows)
    )
    assert none["added_error"]["value"] == 0
    assert haar["added_error"]["value"] == pytest.approx(
        haar["common"]["age_mae"]["value"] - none["common"]["age_mae"]["value"]
    )

    fairface = measured["fairface"]
    assert (fairface["images"], fairface["in_common"]) == (3, 1)
    for through in fairface["through"]:
        assert len(through["missed"]) == 2  # the blank and the broken one, which are not in the cache
        assert through["added_error"] is None
        assert through["common"]["right_or_next_bin"]["value"] in (0, 1)
        assert through["figures"]["right_or_next_bin"]["value"] <= 1 / 3


@needs_yunet
def test_a_service_is_started_where_none_is_named(originals: Path, models_folder: Path) -> None:
    options = (f"--yunet={YUNET}", f"--models={models_folder}", f"--cache={originals / 'cache'}")
    result = call(f"--fairface={originals / 'fairface'}", *options)
    assert result.exit_code == 0, result.output
    assert "FairFace: 3 images of the test split" in " ".join(result.output.split())
    result = call(f"--utkface={originals / 'UTKFace'}", *options, "--split=validation")
    images = len(data.load(originals / "cache").indices("validation", UTKFACE))
    assert f"UTKFace: {images} images of the validation split" in " ".join(result.output.split())


@needs_yunet
def test_a_model_is_measured_where_it_is_the_only_one(originals: Path, tmp_path: Path) -> None:
    put_model(tmp_path, "age_gender_A")
    options = (f"--yunet={YUNET}", f"--models={tmp_path}", f"--cache={originals / 'cache'}")
    asked = ["evaluate-service", "age_gender_A", f"--fairface={originals / 'fairface'}", *options]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output


@needs_yunet
def test_what_cannot_be_done_is_said_in_a_sentence(
    originals: Path, bare_server: Server, tmp_path: Path
) -> None:
    cache, utkface = f"--cache={originals / 'cache'}", f"--utkface={originals / 'UTKFace'}"
    write_chips(tmp_path / "others", 5)
    for arguments, complaint in (
        ((cache,), "there is nothing to send"),
        ((cache, f"--utkface={tmp_path / 'others'}", "--url=http://127.0.0.1:9"), "are not there, such as"),
        ((cache, utkface, "--url=http://127.0.0.1:9"), "cannot be asked"),
        ((cache, utkface, f"--url={bare_server.url}"), "(401)"),
        ((cache, utkface, f"--models={tmp_path}"), "did not start: The models folder"),
        ((f"--cache={tmp_path}", utkface), "holds no prepared faces"),
    ):
        result = call(*arguments)
        assert result.exit_code != 0
        assert complaint in " ".join(result.output.split())
        assert "Traceback" not in result.output


def face(years: float, label: str = "male", **box: int) -> dict[str, Any]:
    age = {"years": years, "low": years - 5, "high": years + 5, "coverage": 0.8}
    return {"box": box, "age": age, "gender": {"label": label, "probability": 0.9}}


def test_of_several_faces_the_one_in_the_middle_is_meant() -> None:
    large = face(20, x=0, y=0, width=120, height=120)
    central = face(30, x=130, y=80, width=40, height=40)
    size = {"width": 300, "height": 200}
    assert most_central_face({"image": size, "faces": [large, central]}) == central
    assert most_central_face({"image": size, "faces": []}) is None


def test_a_missed_face_is_wrong_in_every_share_and_leaves_the_years_alone() -> None:
    photographs = [Photograph(f"{age}.jpg", Path(), Label(age, age, True, "White")) for age in (30, 40, 50)]
    measured = summarise(
        UTKFACE,
        "test",
        photographs,
        {
            "none": [face(31), face(42), face(53)],
            "yunet": [face(32), face(40, "female"), None],
            "haar": [face(36), None, face(50)],
        },
    )
    assert (measured.images, measured.in_common) == (3, 1)
    none, yunet, haar = measured.through
    assert (none.missed, yunet.missed, haar.missed) == ([], ["50.jpg"], ["40.jpg"])
    values = {
        part.detector: {key: figure.value for key, figure in part.figures.items()}
        for part in measured.through
    }
    assert values["none"] == pytest.approx({"age_mae": 2, "age_cs5": 1, "gender_accuracy": 1})
    assert values["yunet"] == pytest.approx({"age_mae": 1, "age_cs5": 2 / 3, "gender_accuracy": 1 / 3})
    assert values["haar"] == pytest.approx({"age_mae": 3, "age_cs5": 1 / 3, "gender_accuracy": 2 / 3})
    added = [part.added_error for part in measured.through]
    assert [figure and figure.value for figure in added] == [0, 1, 5]  # of the first face alone
    first, second = measured.grids()
    assert [row[:2] for row in first.rows] == [("none", "0"), ("yunet", "1"), ("haar", "1")]
    assert [row[-1] for row in second.rows] == [
        "+0.00 (+0.00 to +0.00)",
        "+1.00 (+1.00 to +1.00)",
        "+5.00 (+5.00 to +5.00)",
    ]
