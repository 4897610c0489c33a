"""The whole way from pictures to a served model, in small."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from face_images import write_chips
from typer.testing import CliRunner, Result

keras = pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

from agegender.inference.variants import load_catalogue
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from training import data, export, fit
from training.architectures import with_probabilities
from training.cli import app
from training.errors import TrainingError

ROOT = Path(__file__).parents[2]
KEY = "age_gender_A"
OPTIONS = ("--epochs", "32:2", "--seed", "3")


@dataclass(frozen=True)
class Workshop:
    """Where everything of a run lies."""

    folder: Path

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def run(self) -> Path:
        return self.folder / "runs/A"

    @property
    def models(self) -> Path:
        return self.folder / "models"

    def history(self) -> list[dict[str, float]]:
        return json.loads((self.run / "history.json").read_text())

    def call(self, *arguments: str) -> Result:
        """`python -m training` with these, in this process."""
        folders = {"--cache": self.cache, "--runs": self.run.parent, "--models": self.models}
        takes = {"prepare": ["--cache"], "evaluate": ["--cache", "--models"], "export": list(folders)}
        options = takes.get(arguments[0], ["--cache", "--runs"])
        return CliRunner().invoke(app, [*arguments, *(str(x) for o in options for x in (o, folders[o]))])


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Prepared pictures, and a run that was killed in the middle of its second epoch of two."""
    shop = Workshop(tmp_path_factory.mktemp("chain"))
    write_chips(shop.folder / "UTKFace", 260)
    result = shop.call("prepare", "--utkface", str(shop.folder / "UTKFace"))
    assert result.exit_code == 0, result.output
    train = len(data.load(shop.cache).indices("train"))
    assert re.search(rf"UTKFace\s+│\s+{train} │", result.output)
    assert (shop.cache / "age_distribution.png").read_bytes().startswith(b"\x89PNG")
    command = [sys.executable, "-u", "-m", "training", "train", "A", *OPTIONS]
    command += ["--cache", str(shop.cache), "--runs", str(shop.run.parent)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert isinstance(process.stdout, io.BufferedReader)
        said = b""
        # What is said of an epoch is said when it is on disk; then the first batch of the next is counted.
        while not re.search(rb"epoch 1 .*\D1/3", said, re.DOTALL):
            more = process.stdout.read1()
            assert more, said
            said += more
        process.kill()
    return shop


@pytest.fixture(scope="module")
def trained(killed: Workshop) -> Workshop:
    """The same, gone on with to its end."""
    before = killed.history()
    assert len(before) == 1
    assert scores_of_kept_weights(killed) == pytest.approx(before[0]["score"], rel=1e-3)
    result = killed.call("train", "A", "--resume")
    assert result.exit_code == 0, result.output
    assert "going on after epoch 1" in result.output
    assert killed.history()[0] == before[0]
    return killed


def scores_of_kept_weights(shop: Workshop) -> float:
    return fit.validate(fit.load_best(shop.run), data.load(shop.cache), side=32)["score"]


@pytest.fixture(scope="module")
def exported(trained: Workshop) -> Workshop:
    """And exported."""
    result = trained.call("export", KEY)
    assert result.exit_code == 0, result.output
    return trained


def test_a_killed_run_goes_on_to_the_epochs_and_with_the_options_it_began_with(trained: Workshop) -> None:
    assert [entry["epoch"] for entry in trained.history()] == [1, 2]
    record = json.loads((trained.run / "config.json").read_text())
    assert (record["stages"], record["seed"], record["variant"]) == ([[32, 2]], 3, "A")
    assert record["data_sha256"] == data.load(trained.cache).digest()
    assert record["commit"] is None or len(record["commit"]) == 40
    assert (trained.run / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_resumed_run_learns_what_one_that_was_never_killed_learns(trained: Workshop) -> None:
    runs = trained.folder / "unbroken"
    arguments = ["train", "A", *OPTIONS, "--tensorboard", "--cache", str(trained.cache), "--runs", str(runs)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    unbroken = json.loads((runs / "A/history.json").read_text())
    # The same batches, augmented alike, with the same units dropped; sums of other threads differ in the last digits.
    for entry, other in zip(trained.history(), unbroken, strict=True):
        assert entry["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert entry["utkface_age_mae"] == pytest.approx(other["utkface_age_mae"], rel=1e-2)
    check_events(runs / "A/tensorboard", unbroken)


def check_events(folder: Path, history: list[dict[str, float]]) -> None:
    """Assert that TensorBoard finds in `folder` what the history says, and nothing else."""
    log = EventAccumulator(str(folder))
    log.Reload()
    assert set(log.Tags()["tensors"]) == history[0].keys() - {"epoch"}
    for name in log.Tags()["tensors"]:
        events = log.Tensors(name)
        assert [event.step for event in events] == [entry["epoch"] for entry in history]
        values = [float(tensor_util.make_ndarray(event.tensor_proto)) for event in events]
        assert values == pytest.approx([entry[name] for entry in history], rel=1e-5)


def test_tensorboard_is_given_the_epochs_before_a_resumption_too(trained: Workshop) -> None:
    for _ in range(2):  # not twice, either
        assert trained.call("train", "A", "--resume", "--tensorboard").exit_code == 0
    check_events(trained.run / "tensorboard", trained.history())


def test_the_weights_kept_are_those_of_the_best_epoch(trained: Workshop) -> None:
    best = min(entry["score"] for entry in trained.history())
    assert scores_of_kept_weights(trained) == pytest.approx(best, rel=1e-3)


def test_best_weights_that_a_kill_left_unwritten_are_kept_on_resuming(trained: Workshop) -> None:
    kept, history = (trained.run / "best.weights.h5").read_bytes(), trained.history()
    first, last = history
    (trained.run / "best.weights.h5").unlink()
    (trained.run / "history.json").write_text(json.dumps([first | {"score": last["score"] + 1}, last]))
    try:
        assert trained.call("train", "A", "--resume").exit_code == 0
        assert scores_of_kept_weights(trained) == pytest.approx(last["score"], rel=1e-3)
    finally:
        (trained.run / "best.weights.h5").write_bytes(kept)
        (trained.run / "history.json").write_text(json.dumps(history))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("train", "A", "--resume", "--epochs", "32:3"), "--resume needs the same"),
        (("train", "A", "--resume", "--seed", "4"), "--resume needs the same"),
        (("train", "A", "--resume", "--fairface-share", "0.5"), "--resume needs the same"),
        (("train", "A", "--fairface-share", "2"), "for '--fairface-share'"),
        (("train", "A", "--init", "imagenet"), "imagenet is for B"),
        (("train", "A", "--init", "nowhere.keras"), "nowhere.keras is no model that can be read"),
        (("train", "A", "--teacher", "nowhere.keras"), "nowhere.keras is no model that can be read"),
        (("train", "A", "--epochs", "96"), "wants SIDE:EPOCHS"),
        (("train", "A", "--epochs", "96:4,32:0"), "wants SIDE:EPOCHS"),
        (("calibrate", "age_gender_B"), "holds no run"),
        (("evaluate", "age_gender_B"), "models"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    trained: Workshop, arguments: tuple[str, ...], complaint: str
) -> None:
    before = trained.history()
    result = trained.call(*arguments)
    assert result.exit_code != 0
    assert complaint in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert trained.history() == before


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        (
            "cache/labels.npz",
            "cache is damaged, or of another version: run `python -m training prepare` again.",
        ),
        (
            "cache/crops.uint8",
            "cache is damaged, or of another version: run `python -m training prepare` again.",
        ),
        ("runs/A/config.json", "runs/A is damaged, or of another version: begin it anew, without --resume."),
        ("runs/A/best.weights.h5", "best.weights.h5 is missing or damaged: begin the run anew"),
    ],
)
def test_what_was_copied_by_half_is_said_to_be_damaged(
    trained: Workshop, tmp_path: Path, file: str, complaint: str
) -> None:
    shop = Workshop(shutil.copytree(trained.folder, tmp_path / "shop"))
    os.truncate(shop.folder / file, (shop.folder / file).stat().st_size // 2)
    result = shop.call("calibrate", KEY)
    assert result.exit_code == 1
    assert complaint in " ".join(result.output.split())


def test_without_faces_to_measure_on_the_figures_stay(exported: Workshop, tmp_path: Path) -> None:
    shop = Workshop(shutil.copytree(exported.folder, tmp_path / "shop"))
    write_chips(tmp_path / "few", 4)
    faces, _ = data.prepare(shop.cache, tmp_path / "few")
    assert not len(faces.indices("test"))
    before = (shop.models / KEY / "evaluation.json").read_text()
    result = shop.call("evaluate", KEY)
    assert result.exit_code == 1
    assert "No face is in the test split: prepare more." in " ".join(result.output.split())
    assert (shop.models / KEY / "evaluation.json").read_text() == before


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((), "run `agegender fetch-detector`, or add --yunet PATH"),
        (("--yunet", "nowhere.onnx"), "nowhere.onnx cannot be read"),
    ],
)
def test_without_yunet_fairface_is_not_prepared(
    tmp_path: Path, options: tuple[str, ...], complaint: str
) -> None:
    arguments = ["prepare", "--utkface", "U", "--fairface", "F", "--cache", str(tmp_path / "cache"), *options]
    empty = {"XDG_CACHE_HOME": str(tmp_path), "AGEGENDER_YUNET_PATH": ""}
    result = CliRunner().invoke(app, arguments, env=empty)
    assert result.exit_code != 0
    assert complaint in " ".join(result.output.replace("│", "").split())
    assert not (tmp_path / "cache").exists()


def test_faces_other_than_those_it_learned_from_are_refused(trained: Workshop, tmp_path: Path) -> None:
    write_chips(tmp_path / "UTKFace", 20)
    faces, _ = data.prepare(tmp_path / "cache", tmp_path / "UTKFace")
    with pytest.raises(TrainingError, match="was trained on other faces"):
        export.calibrated(trained.run, faces)
    with pytest.raises(TrainingError, match="fewer than the 64 of one batch"):
        fit.train(fit.DEFAULTS["A"], faces, tmp_path / "run", resume=False, log=print)


def test_a_run_stops_where_its_loss_is_no_number_any_more(trained: Workshop, tmp_path: Path) -> None:
    config = fit.Config("A", ((32, 9),), batch_size=8, peak_learning_rate=1e30)
    with pytest.raises(TrainingError, match="begin anew with a lower --peak-learning-rate"):
        fit.train(config, data.load(trained.cache), tmp_path, resume=False, log=print)
    assert not (tmp_path / fit.BEST_FILE).exists()


def test_calibration_can_be_looked_at(trained: Workshop) -> None:
    result = trained.call("calibrate", KEY)
    assert result.exit_code == 0, result.output
    assert "gender temperature" in result.output
    assert "age that is named" in result.output


def test_the_export_is_a_model_that_the_service_takes(exported: Workshop) -> None:
    catalogue = load_catalogue(exported.models)
    variant = catalogue[KEY].variant
    assert variant.parameters <= 6_000_000
    faces = data.load(exported.cache)
    crops = np.array(faces.crops[faces.indices("test")])
    age, male = catalogue[KEY].session.run(crops)
    assert age.sum(axis=1) == pytest.approx(1, abs=1e-4)
    assert ((male > 0) & (male < 1)).all()
    network, calibrated = export.calibrated(exported.run, faces)
    model = with_probabilities(network, calibrated.chosen.gender_temperature, side=32)
    assert age == pytest.approx(model.predict(crops, verbose=0)["age"], abs=1e-3)
    assert variant.age_interval == calibrated.chosen.age_interval
    assert variant.age_estimate == calibrated.chosen.age_estimate


def test_the_figures_of_metadata_and_card_are_those_that_evaluate_measures(exported: Workshop) -> None:
    result = exported.call("evaluate", KEY, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout[result.stdout.index("{") :])
    assert printed == json.loads((exported.models / KEY / "evaluation.json").read_text())
    figures = printed["utkface"]["groups"][0]["figures"]
    metadata = json.loads((exported.models / f"{KEY}.json").read_text())
    assert metadata["metrics"]["age_mae"] == pytest.approx(figures["age_mae"]["value"], abs=1e-4)
    assert metadata["metrics"]["gender_accuracy"] == pytest.approx(
        figures["gender_accuracy"]["value"], abs=1e-4
    )
    assert metadata["metrics"]["n"] == len(data.load(exported.cache).indices("test"))
    card = (exported.models / f"{KEY}.md").read_text()
    assert f"| mean absolute error of age | {figures['age_mae']['value']:.2f} years |" in card
    assert metadata["sha256"] in card
    assert str(exported.folder) not in card
    assert f"Age is the\n{metadata['age_estimate']} of the distribution" in card
    table = exported.call("evaluate", KEY)
    assert table.exit_code == 0, table.output
    assert "Expected calibration error of gender" in table.output


def test_the_card_shows_its_pictures_and_they_are_small(exported: Workshop) -> None:
    card = (exported.models / f"{KEY}.md").read_text()
    pictures = list((exported.models / KEY).glob("*.png"))
    assert len(pictures) == 4
    for picture in pictures:
        assert f"({KEY}/{picture.name})" in card
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 80_000


def test_nothing_is_left_beside_an_export(exported: Workshop) -> None:
    names = {path.name for path in exported.models.iterdir()}
    assert names == {KEY, *(f"{KEY}.{suffix}" for suffix in ("keras", "onnx", "json", "md"))}


def a_model(folder: Path, content: bytes) -> None:
    (folder / KEY).mkdir(parents=True)
    for suffix in ("md", "keras", "onnx"):
        (folder / f"{KEY}.{suffix}").write_bytes(content)
    (folder / f"{KEY}.json").write_text(json.dumps({"sha256": hashlib.sha256(content).hexdigest()}))


@pytest.mark.parametrize("moves", range(6))
def test_a_kill_between_two_files_leaves_no_metadata_of_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    a_model(tmp_path / "models", b"old")
    a_model(tmp_path / "aside", b"new")
    done = []

    def replace(source: Path, target: Path) -> None:
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(target)
        Path(source).rename(target)

    monkeypatch.setattr(os, "replace", replace)
    with contextlib.suppress(KeyboardInterrupt):
        export.publish(KEY, tmp_path / "aside", tmp_path / "models")
    metadata = tmp_path / f"models/{KEY}.json"
    assert metadata.exists() == (moves == 5)
    if metadata.exists():
        served = (tmp_path / f"models/{KEY}.onnx").read_bytes()
        assert served == b"new"
        assert json.loads(metadata.read_text())["sha256"] == hashlib.sha256(served).hexdigest()


def test_an_export_that_differs_from_its_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    heads = {"age": keras.layers.Dense(101)(pooled), "gender": keras.layers.Dense(1)(pooled)}
    model = with_probabilities(keras.Model(inputs, heads))
    crops = np.random.default_rng(0).integers(0, 256, (4, 128, 128, 3), dtype=np.uint8)
    assert export.convert(model, tmp_path / "good.onnx", crops) < 1e-3

    class Off(export.OnnxSession):
        def run(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            age, male = super().run(crops)
            return age, np.where(male > 0.5, male - 0.002, male + 0.002)

    monkeypatch.setattr(export, "OnnxSession", Off)
    with pytest.raises(TrainingError, match=r"differ by 0\.002 on real crops"):
        export.convert(model, tmp_path / "off.onnx", crops)
