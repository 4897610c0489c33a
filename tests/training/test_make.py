"""Small models by the very command that makes the shipped ones."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face_images import write_chips
from typer.testing import CliRunner, Result

keras = pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

from agegender.inference.variants import load_catalogue
from recognizer_file import write_recognizer

from training import data, recipe, train
from training.cli import app
from training.errors import TrainingError


def small_recipe(name: str, folder: Path, **changes: str) -> Path:
    """The recipe of the repository, but for fewer pixels, epochs and faces in a step; chips in FairFace's place."""
    text = (recipe.FOLDER / f"{name}.toml").read_text()
    changes = {
        "stages": "[{ side = 32, epochs = 1 }, { side = 48, epochs = 1 }]",
        "batch_size": "32",
        "datasets": '["utkface"]',
        "initial_weights": '"random"',
        "network": '"residual"',
        **changes,
    }
    for key, value in changes.items():
        text, replaced = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        assert replaced == 1, key
    assert tomllib.loads(text)
    (folder / f"{name}.toml").write_text(text)
    return folder / f"{name}.toml"


def call(folder: Path, *arguments: object) -> Result:
    """`python -m training` with these, in this process."""
    options: list[object] = ["--cache", folder / "cache"]
    options += ["--models", folder / "models"] if arguments[0] != "prepare" else []
    options += ["--runs", folder / "runs"] if arguments[0] == "make" else []
    return CliRunner().invoke(app, [str(argument) for argument in (*arguments, *options)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_chips(folder / "UTKFace", 260)
    result = call(folder, "make", small_recipe("C", folder), "--utkface", folder / "UTKFace")
    assert result.exit_code == 0, result.output
    return folder


def test_make_goes_from_images_to_a_served_model(made: Path) -> None:
    models = made / "models"
    written = {path.name for path in models.iterdir()}
    assert written == {
        "age_gender_C",
        *(f"age_gender_C.{suffix}" for suffix in ("onnx", "json", "md", "keras")),
    }
    catalogue = load_catalogue(models)  # which checks the file's digest and its outputs
    variant = catalogue["age_gender_C"].variant
    faces = data.load(made / "cache")
    assert variant.metrics.n == len(faces.indices("test"))
    assert variant.trained_on == f"{len(faces.indices('train'))} faces of UTKFace"
    age, male = catalogue["age_gender_C"].session.run(np.asarray(faces.crops[:3]))
    kept = keras.saving.load_model(models / "age_gender_C.keras", compile=False)
    again = kept.predict(np.asarray(faces.crops[:3]), verbose=0)
    assert age == pytest.approx(again["age"], abs=1e-3)
    assert male == pytest.approx(again["gender"], abs=1e-3)


def test_the_card_has_what_is_needed_to_make_the_model_again(made: Path) -> None:
    card = (made / "models/age_gender_C.md").read_text()
    record = json.loads((made / "models/age_gender_C/run.json").read_text())
    assert record["recipe"] == recipe.load(str(made / "C.toml")).choices()
    assert record["data_sha256"] == data.load(made / "cache").digest()
    assert len(record["history"]) == 2
    for fact in (
        record["data_sha256"],
        record["machine"],
        record["libraries"],
        "CC BY 4.0",
        "1 epochs at 48 pixels",
    ):
        assert fact in card
    for picture in re.findall(r"\]\((.*\.png)\)", card):
        assert (made / "models" / picture).read_bytes().startswith(b"\x89PNG")
    assert not re.search(r"\{\{|\{%|nan", card)


def test_evaluate_prints_what_the_metadata_hold(made: Path) -> None:
    result = call(made, "evaluate", "age_gender_C", "--json")
    assert result.exit_code == 0, result.output
    everyone = json.loads(result.stdout[result.stdout.index("{") :])["utkface"]["groups"]["range"]["all"]
    metrics = load_catalogue(made / "models")["age_gender_C"].variant.metrics
    assert everyone["age_mae"]["value"] == pytest.approx(metrics.age_mae, abs=1e-6)
    assert everyone["n"] == metrics.n


def test_calibrate_finds_the_same_again(made: Path) -> None:
    before = (made / "models/age_gender_C.json").read_text()
    result = call(made, "calibrate", made / "C.toml")
    assert result.exit_code == 0, result.output
    assert (made / "models/age_gender_C.json").read_text() == before


def test_a_run_that_goes_on_keeps_its_epochs_and_its_best_weights(made: Path, tmp_path: Path) -> None:
    faces = data.load(made / "cache")
    shutil.copytree(made / "runs/C", tmp_path / "run")
    before = train.read_history(tmp_path / "run")
    stages = "[{ side = 32, epochs = 1 }, { side = 48, epochs = 2 }]"
    longer = recipe.load(str(small_recipe("C", tmp_path, stages=stages)))
    network = train.train(longer, faces, tmp_path / "run", "imagenet", None)
    history = train.read_history(tmp_path / "run")
    assert history[:2] == before
    assert [entry["epoch"] for entry in history] == [0, 1, 2]
    best = min(entry["val_loss"] for entry in history)
    assert validation_loss(network, longer, faces) == pytest.approx(best, rel=1e-3)
    # All is done: nothing is trained again, and the same weights come back.
    again = train.train(longer, faces, tmp_path / "run", "imagenet", None)
    assert train.read_history(tmp_path / "run") == history
    for one, other in zip(network.get_weights(), again.get_weights(), strict=True):
        assert np.array_equal(one, other)


def validation_loss(network: Any, chosen: recipe.Recipe, faces: data.Faces) -> float:
    from training.losses import AgeLoss, smooth_age_prior

    batches = train.Batches(faces, faces.indices("validation"), chosen.side, chosen.batch_size)
    network.compile(
        loss={
            "age": AgeLoss(smooth_age_prior(faces, faces.indices("train"))),
            "gender": keras.losses.BinaryCrossentropy(from_logits=True),
        }
    )
    return float(network.evaluate(batches, verbose=0, return_dict=True)["loss"])


def test_a_folder_with_another_run_is_left_alone(made: Path, tmp_path: Path) -> None:
    other = recipe.load(str(small_recipe("C", tmp_path, seed="1")))
    with pytest.raises(TrainingError, match="holds a run of another recipe or other data"):
        train.train(other, data.load(made / "cache"), made / "runs/C", "imagenet", None)


def test_a_recipe_with_a_teacher_learns_from_it(made: Path, tmp_path: Path) -> None:
    write_recognizer(tmp_path / "w600k_mbf.onnx")
    (tmp_path / "cache").symlink_to(made / "cache")
    small = small_recipe("B", tmp_path)
    result = call(tmp_path, "make", small)
    assert result.exit_code == 1
    assert "add --recognizer" in result.output
    result = call(tmp_path, "make", small, "--recognizer", tmp_path / "w600k_mbf.onnx")
    assert result.exit_code == 0, result.output
    assert load_catalogue(tmp_path / "models")["age_gender_B"].variant.licence.startswith(
        "For non-commercial"
    )
    assert "teacher" in (tmp_path / "models/age_gender_B.md").read_text()
