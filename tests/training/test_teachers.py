"""What teachers say reaches those that learn from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

from training import data, fit
from training.architectures import build, load_exported, with_probabilities
from training.errors import TrainingError
from training.fit import Batches, Config
from training.splits import TRAIN
from training.teachers import SoftTargets, soft_targets

CONFIG = Config("A", stages=((32, 1),), batch_size=8)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two networks that have learned nothing, and differ."""
    keras.utils.set_random_seed(0)
    files = []
    for name in ("first", "second"):
        files.append(str(tmp_path_factory.mktemp(name) / "teacher.keras"))
        with_probabilities(build("A"), side=32).save(files[-1])
    return files


def answers(file: str, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    answer = keras.saving.load_model(file).predict(crops, verbose=0)
    return answer["age"], answer["gender"]


def test_teachers_say_the_mean_over_all_of_them_and_over_each_training_face_and_its_mirror_image(
    faces: data.Faces, teachers: list[str], tmp_path: Path
) -> None:
    taught = soft_targets(map(load_exported, teachers), faces, tmp_path / "kept.npz")
    rows = faces.indices(TRAIN)
    crops = np.asarray(faces.crops[rows])
    views = [answers(file, view) for file in teachers for view in (crops, np.flip(crops, axis=2))]
    assert np.abs(views[0][1] - views[1][1]).max() > 1e-3  # so that a view left out would show
    np.testing.assert_allclose(taught.age[rows], np.mean([age for age, _ in views], axis=0), atol=1e-3)
    np.testing.assert_allclose(taught.male[rows], np.mean([male for _, male in views], axis=0), atol=1e-3)
    others = np.setdiff1d(np.arange(len(faces)), rows)
    assert len(others)
    assert not taught.age[others].any()
    assert not taught.male[others].any()


def test_a_run_that_goes_on_does_not_ask_its_teachers_again(
    faces: data.Faces, teachers: list[str], tmp_path: Path
) -> None:
    first = soft_targets([load_exported(teachers[0])], faces, tmp_path / "kept.npz")
    again = soft_targets(map(load_exported, ["gone.keras"]), faces, tmp_path / "kept.npz")
    np.testing.assert_array_equal(again.age, first.age)


def test_labels_carry_the_teachers_ages_and_go_half_of_the_way_to_their_gender(faces: data.Faces) -> None:
    ages = np.full((len(faces), 101), 1 / 128, np.float16)
    males = np.full(len(faces), 0.75, np.float16)
    _, plain = Batches(faces, CONFIG, epoch=0)[0]
    _, taught = Batches(faces, CONFIG, epoch=0, taught=SoftTargets(ages, males))[0]
    np.testing.assert_array_equal(taught["age"][:, :2], plain["age"])
    np.testing.assert_array_equal(taught["age"][:, 2:], np.full((8, 101), 1 / 128))
    np.testing.assert_allclose(taught["gender"], np.where(plain["gender"] == 1, 0.875, 0.375))


def test_a_network_learns_from_its_teachers(faces: data.Faces, teachers: list[str], tmp_path: Path) -> None:
    config = Config("A", stages=((32, 1),), batch_size=8, teachers=(teachers[0],))
    fit.train(config, faces, tmp_path, resume=False, log=print)
    record, history = fit.load_record(tmp_path)
    assert record["teachers"] == [teachers[0]]
    # Half of the loss is now the divergence from a teacher who knows nothing, and is easily learned.
    plain = Config("A", stages=((32, 1),), batch_size=8)
    fit.train(plain, faces, tmp_path / "plain", resume=False, log=print)
    assert history[0]["loss"] < 0.8 * fit.load_record(tmp_path / "plain")[1][0]["loss"]


def test_a_try_that_fails_leaves_the_run_and_its_teachers_answers_as_they_were(
    faces: data.Faces, teachers: list[str], tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, teachers=(teachers[0],))
    fit.train(config, faces, tmp_path, resume=False, log=print)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = dataclasses.replace(CONFIG, teachers=(teachers[1],), init="typo.keras")
    with pytest.raises(TrainingError, match=r"typo\.keras"):
        fit.train(other, faces, tmp_path, resume=False, log=print)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert fit.TEACHERS_FILE in before


def test_a_model_of_something_else_is_no_teacher(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    with pytest.raises(TrainingError, match=r"other\.keras is no model that can be read"):
        load_exported(str(tmp_path / "other.keras"))


def test_a_damaged_teacher_is_said_to_be_none(teachers: list[str], tmp_path: Path) -> None:
    whole = Path(teachers[0]).read_bytes()
    middle = len(whole) // 2
    (tmp_path / "bad.keras").write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(TrainingError, match=r"bad\.keras is no model that can be read"):
        load_exported(str(tmp_path / "bad.keras"))


def test_a_folder_of_a_run_teaches_as_the_network_that_it_keeps(faces: data.Faces, tmp_path: Path) -> None:
    fit.train(CONFIG, faces, tmp_path / "teacher", resume=False, log=print)
    taught = dataclasses.replace(CONFIG, teachers=(str(tmp_path / "teacher"),))
    fit.train(taught, faces, tmp_path / "pupil", resume=False, log=print)
    with np.load(tmp_path / "pupil" / fit.TEACHERS_FILE) as kept:
        said = kept["age"]
    with_probabilities(fit.load_best(tmp_path / "teacher"), side=32).save(tmp_path / "exported.keras")
    row = faces.indices(TRAIN)[:1]
    crops = np.asarray(faces.crops[row])
    views = [answers(str(tmp_path / "exported.keras"), view)[0] for view in (crops, np.flip(crops, axis=2))]
    np.testing.assert_allclose(said[row], np.mean(views, axis=0), atol=1e-3)
