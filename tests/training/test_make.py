"""Small models by the very commands that make the shipped ones, as the page on training shows them."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face_images import SMALL, write_chips, write_recipe
from helpers import ASTRONAUT, ROOT, environment, serving
from typer.testing import CliRunner, Result

keras = pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

from agegender.inference.variants import load_catalogue
from recognizer_file import write_recognizer

from training import data, networks, recipe, teacher, train
from training.cli import app
from training.errors import TrainingError
from training.losses import AgeLoss, smooth_age_prior

TRAINING = ".venv/bin/python -m training "
SERVE = ".venv/bin/agegender serve "
MODEL = "age_gender_mine"


def call(command: str) -> Result:
    """`python -m training` with these arguments, in this process."""
    return CliRunner().invoke(app, shlex.split(command), catch_exceptions=False)


def commands() -> Iterator[str]:
    """Those of the page that make no environment: that of this test has all there is to install."""
    page = (ROOT / "docs/training.md").read_text()
    for block in re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for command in re.findall(r"^\$ ((?:.*\\\n)*.*)\n", block, re.MULTILINE):
            if not command.startswith("make "):
                yield command.replace("\\\n", " ")


@dataclass
class Made:
    """A clone in which the commands of the page were run, with what they printed."""

    clone: Path
    printed: dict[str, str] = field(default_factory=dict)
    first_metadata: str = ""
    """As `make` wrote them, before `calibrate`."""

    @property
    def folder(self) -> Path:
        """Of everything that was made."""
        return self.clone / "data/mine"

    @property
    def models(self) -> Path:
        return self.folder / "models"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    made = Made(tmp_path_factory.mktemp("clone"))
    clone = made.clone
    (clone / ".venv").symlink_to(sys.prefix)
    (clone / "examples").symlink_to(ASTRONAUT.parent)
    (clone / "training").symlink_to(ROOT / "training")
    (clone / "models").mkdir()
    for served in (*ROOT.glob("models/*.onnx"), *ROOT.glob("models/*.json")):
        shutil.copy(served, clone / "models")
    write_chips(made.folder / "faces", 300)
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).chdir(clone)
        address = ""
        for command in commands():
            if command.startswith(SERVE):
                options = shlex.split(command.removeprefix(SERVE))
                server = stack.enter_context(serving(None, clone / "cache", *options, cwd=clone))
                address = server.url
            elif command.startswith(TRAINING):
                if "calibrate" in command:
                    made.first_metadata = (made.models / f"{MODEL}.json").read_text()
                result = call(command.removeprefix(TRAINING))
                assert result.exit_code == 0, result.output
                made.printed[command] = result.stdout
            else:
                made.printed[command] = subprocess.run(
                    ["sh", "-c", command.replace("localhost:8000", address)],
                    env=environment(clone / "cache", COLUMNS="120"),
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
    return made


def printed(made: Made, start: str) -> str:
    """What the command that begins like this printed."""
    (output,) = (output for command, output in made.printed.items() if command.startswith(start))
    return output


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_page_leads_from_a_folder_of_faces_to_an_answer(made: Made) -> None:
    answer = json.loads(printed(made, "curl "))
    assert (answer["model"], len(answer["faces"])) == (MODEL, 1)
    assert f"{MODEL} " in printed(made, ".venv/bin/agegender models")
    assert {path.name for path in made.folder.iterdir()} == {"faces", "mine.toml", "cache", "runs", "models"}
    suffixes = {path.suffix for path in made.models.glob(f"{MODEL}.*")}
    assert suffixes == {".onnx", ".json", ".md", ".keras"}


def test_what_is_served_answers_as_what_was_trained(made: Made) -> None:
    model = load_catalogue(made.models)[MODEL]  # which checks the file's digest and its outputs
    faces = data.load(made.folder / "cache")
    assert model.variant.metrics.n == len(faces.indices("test"))
    assert model.variant.trained_on == f"{len(faces.indices('train'))} faces of UTKFace"
    crops = np.asarray(faces.crops[:3])
    age, male = model.session.run(crops)
    kept = keras.saving.load_model(made.models / f"{MODEL}.keras", compile=False).predict(crops, verbose=0)
    assert age == pytest.approx(kept["age"], abs=1e-3)
    assert male == pytest.approx(kept["gender"], abs=1e-3)


def test_the_card_has_what_is_needed_to_make_the_model_again(made: Made) -> None:
    card = (made.models / f"{MODEL}.md").read_text()
    record = json.loads((made.models / MODEL / "run.json").read_text())
    assert record["recipe"] == recipe.load(str(made.folder / "mine.toml")).choices()
    assert record["data_sha256"] == data.load(made.folder / "cache").digest()
    assert len(record["history"]) == 2
    known = (record["data_sha256"], record["machine"], record["libraries"])
    for fact in (*known, "CC BY 4.0", "1 epochs at 48 pixels"):
        assert fact in card
    for picture in re.findall(r"\]\((.*\.png)\)", card):
        assert (made.models / picture).read_bytes().startswith(b"\x89PNG")
    assert not re.search(r"\{\{|\{%|nan", card)


def test_evaluate_prints_what_the_metadata_hold(made: Made) -> None:
    result = call(f"evaluate {MODEL} --json --cache {made.folder}/cache --models {made.models}")
    assert result.exit_code == 0, result.output
    everyone = json.loads(result.stdout[result.stdout.index("{") :])["utkface"]["groups"]["range"]["all"]
    metrics = load_catalogue(made.models)[MODEL].variant.metrics
    assert everyone["age_mae"]["value"] == pytest.approx(metrics.age_mae, abs=1e-6)
    assert everyone["n"] == metrics.n
    assert f"{metrics.age_mae:.2f} " in printed(made, f"{TRAINING}evaluate")


def test_calibrate_finds_the_same_again(made: Made) -> None:
    assert (made.models / f"{MODEL}.json").read_text() == made.first_metadata


def test_a_run_that_goes_on_keeps_its_epochs_and_its_best_weights(made: Made, tmp_path: Path) -> None:
    faces = data.load(made.folder / "cache")
    shutil.copytree(made.folder / "runs/mine", tmp_path / "run")
    before = train.read_history(tmp_path / "run")
    stages = "[{ side = 32, epochs = 1 }, { side = 48, epochs = 2 }]"
    longer = recipe.load(str(write_recipe(tmp_path / "mine.toml", made.folder / "mine.toml", stages=stages)))
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


def test_a_share_of_the_first_weights_is_kept(made: Made, tmp_path: Path) -> None:
    faces = data.load(made.folder / "cache")
    first = made.models / f"{MODEL}.keras"
    text = (made.folder / "mine.toml").read_text()
    text = text.replace('initial_weights = "random"', f'initial_weights = "{first}"')

    def weights(share: float) -> list[Any]:
        (tmp_path / "mine.toml").write_text(f"share_of_first_weights = {share}\n{text}")
        chosen = recipe.load(str(tmp_path / "mine.toml"))
        return list(train.train(chosen, faces, tmp_path / "run", "imagenet", None).get_weights())

    learned, mixed = weights(0.0), weights(0.5)
    for begun, ended, half in zip(
        networks.begin("residual", 0.1, str(first)).get_weights(), learned, mixed, strict=True
    ):
        np.testing.assert_allclose(half, (begun + ended) / 2, rtol=1e-5, atol=1e-6)


def validation_loss(network: Any, chosen: recipe.Recipe, faces: data.Faces) -> float:
    batches = train.Batches(faces, faces.indices("validation"), chosen.side, chosen.batch_size)
    network.compile(
        loss={
            "age": AgeLoss(smooth_age_prior(faces, faces.indices("train"))),
            "gender": keras.losses.BinaryCrossentropy(from_logits=True),
        }
    )
    return float(network.evaluate(batches, verbose=0, return_dict=True)["loss"])


def test_a_folder_with_another_run_is_left_alone(made: Made, tmp_path: Path) -> None:
    other = recipe.load(str(write_recipe(tmp_path / "mine.toml", made.folder / "mine.toml", seed="1")))
    with pytest.raises(TrainingError, match="holds a run of another recipe or other data"):
        train.train(other, data.load(made.folder / "cache"), made.folder / "runs/mine", "imagenet", None)


def test_a_recipe_with_a_teacher_learns_from_it(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "FOLDS", 2)  # else most of the time goes into its heads
    recognizer = tmp_path / "w600k_mbf.onnx"
    write_recognizer(recognizer)
    small = write_recipe(
        tmp_path / "B.toml",
        recipe.FOLDER / "B.toml",
        stages="[{ side = 32, epochs = 1 }]",
        last_frozen_layer='"stem_relu"',
        utkface_repeats="3",
        **SMALL,
    )
    command = f"make {small} --cache {made.folder}/cache --runs {tmp_path}/runs --models {tmp_path}/models"
    with pytest.raises(TrainingError, match="add --recognizer"):
        call(command)
    result = call(f"{command} --recognizer {recognizer}")
    assert result.exit_code == 0, result.output
    steps = 3 * len(data.load(made.folder / "cache").indices("train")) // 64
    assert f"{steps}/{steps}" in result.output  # it saw each face three times
    variant = load_catalogue(tmp_path / "models")["age_gender_B"].variant
    assert variant.licence.startswith("For non-commercial")
    assert "teacher" in (tmp_path / "models/age_gender_B.md").read_text()
