"""What a face recognition network sees in faces reaches those that learn from it.

InsightFace's file may not be kept here: a graph with its inputs' and outputs' names, which only averages colours,
stands in for it.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from training import data, fit
from training.errors import TrainingError
from training.fit import Batches, Config
from training.recognizer import EMBEDDING, INPUT, STAGES, Recognizer, mixtures
from training.splits import TRAIN

CONFIG = Config("A", stages=((32, 2),), batch_size=8)


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    sides = (16, 8, 4)
    nodes = [
        helper.make_node("AveragePool", [INPUT], [name], kernel_shape=(side, side), strides=(side, side))
        for name, side in zip(STAGES, sides, strict=True)
    ]
    nodes += [
        helper.make_node("AveragePool", [INPUT], ["quarters"], kernel_shape=(56, 56), strides=(56, 56)),
        helper.make_node("Flatten", ["quarters"], [EMBEDDING]),
    ]
    image = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ("n", 3, 112, 112))
    embedding = helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ("n", 12))
    graph = helper.make_graph(nodes, "colours", [image], [embedding])
    file = tmp_path_factory.mktemp("network") / "colours.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), file)
    return str(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def knows(recognizer: str, faces: data.Faces, folder: Path) -> Recognizer:
    return Recognizer(recognizer, faces, folder, seed=0)


def test_features_are_standardised_over_the_training_faces_and_no_other_face_is_asked(
    faces: data.Faces, knows: Recognizer
) -> None:
    features, said = knows.features, knows.answers
    rows = faces.indices(TRAIN)
    assert features.shape == (len(faces), 2, 12 + 3 * 2 * 3)
    np.testing.assert_allclose(features[rows].mean(axis=(0, 1), dtype=np.float32), 0, atol=0.01)
    np.testing.assert_allclose(features[rows].std(axis=(0, 1), dtype=np.float32), 1, atol=0.01)
    np.testing.assert_allclose(said.age[rows].sum(axis=1, dtype=np.float32), 1, atol=0.01)
    others = np.setdiff1d(np.arange(len(faces)), rows)
    assert len(others)
    assert not features[others].any()
    assert not said.age[others].any()


def test_what_a_run_that_goes_on_asks_is_answered_as_before(
    faces: data.Faces, recognizer: str, tmp_path: Path
) -> None:
    first = Recognizer(recognizer, faces, tmp_path / "kept", seed=0)
    nobody = dataclasses.replace(
        faces, crops=np.zeros_like(faces.crops)
    )  # would be seen, were they asked again
    again = Recognizer(recognizer, nobody, tmp_path / "kept", seed=1)
    np.testing.assert_array_equal(again.features, first.features)
    np.testing.assert_array_equal(again.answers.age, first.answers.age)
    (features, said), (still, same) = (knows.ask(faces.crops[:4]) for knows in (first, again))
    np.testing.assert_array_equal(still, features)
    np.testing.assert_allclose(same.age, said.age, rtol=1e-5)


def test_asked_of_a_training_face_and_its_mirror_image_it_gives_the_features_that_it_keeps(
    faces: data.Faces, knows: Recognizer
) -> None:
    rows = faces.indices(TRAIN)[:8]
    face, mirrored = (knows.ask(view)[0] for view in (faces.crops[rows], faces.crops[rows][:, :, ::-1]))
    assert np.abs(face - mirrored).max() > 0.1
    np.testing.assert_allclose(face, knows.features[rows, 0], atol=0.02)
    np.testing.assert_allclose(mirrored, knows.features[rows, 1], atol=0.02)
    _, said = knows.ask(faces.crops[rows])
    np.testing.assert_allclose(said.age.sum(axis=1), 1, rtol=1e-5)
    # The means over all heads, four of which saw the labels.
    assert ((said.male > 0.5) == faces.male[rows]).mean() >= (
        (knows.answers.male[rows] > 0.5) == faces.male[rows]
    ).mean()


def test_what_is_said_of_a_face_does_not_repeat_its_label(
    faces: data.Faces, recognizer: str, folder: Path, knows: Recognizer, tmp_path: Path
) -> None:
    said = knows.answers
    row = faces.indices(TRAIN)[0]
    male = faces.male.copy()
    male[row] = not male[row]
    shutil.copytree(folder, tmp_path / "kept")
    (tmp_path / "kept" / "answers.npz").unlink()
    relabelled = Recognizer(
        recognizer, dataclasses.replace(faces, male=male), tmp_path / "kept", seed=0
    ).answers
    assert relabelled.male[row] == said.male[row]
    assert not np.array_equal(relabelled.male, said.male)  # the heads that did see it say something else


def constant(value: int) -> NDArray[np.uint8]:
    return np.full((8, 128, 128, 3), value, np.uint8)


def test_a_mixture_shows_both_faces_in_shares_that_change_from_place_to_place_and_from_one_to_the_next() -> (
    None
):
    mixed = mixtures(np.concatenate([constant(200), constant(0)]), np.random.default_rng(0))
    assert mixed.shape == (8, 128, 128, 3)
    assert len({crop.mean().round() for crop in mixed}) == 8
    assert np.ptp(mixed, axis=(1, 2, 3)).max() > 150
    # No border is sharp: a network would learn to look for it.
    assert np.abs(np.diff(mixed.astype(int), axis=1)).max() < 30


def test_faces_that_are_mixed_are_mirrored_as_often_as_not() -> None:
    halves = constant(0)
    halves[:, :, :64] = 200
    random = np.random.default_rng(0)
    bright_left = [
        crop[:, :64].mean() > crop[:, 64:].mean()
        for _ in range(10)
        for crop in mixtures(np.concatenate([halves, constant(100)]), random)
    ]
    assert 20 <= sum(bright_left) <= 60


def test_a_quarter_of_a_batch_are_mixtures_that_the_recognizer_alone_says_something_of(
    faces: data.Faces, recognizer: str, knows: Recognizer
) -> None:
    config = dataclasses.replace(CONFIG, recognizer=recognizer)
    batches = Batches(faces, config, 0, knows.answers, knows)
    assert len(batches) == len(faces.indices(TRAIN)) // 6
    crops, labels, weights = batches[0]
    assert crops.shape[0] == 8
    for position in range(6):
        (row,) = (row for row in range(len(faces)) if np.array_equal(faces.crops[row], crops[position]))
        np.testing.assert_array_equal(labels["features"][position], knows.features[row].mean(axis=0))
        assert labels["age"][position, 0] == faces.age_low[row]
    features, said = knows.ask(crops[6:])
    np.testing.assert_allclose(labels["features"][6:], features, atol=1e-5)
    np.testing.assert_allclose(labels["age"][6:, 2:], said.age, atol=1e-5)
    np.testing.assert_allclose(labels["gender"][6:, 0], said.male, atol=1e-5)
    np.testing.assert_array_equal(labels["age"][6:, :2], [[0, 100]] * 2)
    later = Batches(faces, config, 1, knows.answers, knows)[0][2]
    assert later["features"][0] < weights["features"][0] < 10
    assert later["age"][0] == weights["age"][0] == weights["gender"][7] == 1
    # Another batch mixes others, the same batch of a resumed run the same.
    assert not np.array_equal(batches[1][0][6:], crops[6:])
    np.testing.assert_array_equal(Batches(faces, config, 0, knows.answers, knows)[0][0], crops)


def test_only_training_faces_are_mixed(faces: data.Faces, recognizer: str, knows: Recognizer) -> None:
    crops = np.full_like(faces.crops, 200)
    crops[faces.indices(TRAIN)] = 10
    config = dataclasses.replace(CONFIG, recognizer=recognizer)
    for crops_of_batch, *_ in Batches(
        dataclasses.replace(faces, crops=crops), config, 0, knows.answers, knows
    ):
        assert (crops_of_batch == 10).all()


def test_a_network_learns_the_features_also_after_a_stop_and_is_kept_without_them(
    faces: data.Faces, recognizer: str, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, recognizer=recognizer)
    fit.train(config, faces, tmp_path / "whole", resume=False, log=print)
    record, history = fit.load_record(tmp_path / "whole")
    assert record["recognizer"] == recognizer
    assert history[1]["loss"] < history[0]["loss"]
    assert sorted(fit.load_best(tmp_path / "whole").output) == ["age", "gender"]

    class Stop(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("epoch 1"):
            raise Stop

    with pytest.raises(Stop):
        fit.train(config, faces, tmp_path / "halves", resume=False, log=stop)
    fit.train(config, faces, tmp_path / "halves", resume=True, log=print)
    after = fit.load_record(tmp_path / "halves")[1]
    assert [entry["loss"] for entry in after] == pytest.approx([entry["loss"] for entry in history], rel=1e-3)


def test_a_file_that_is_no_such_network_is_refused_in_a_sentence(faces: data.Faces, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no network")
    for file in ("nowhere.onnx", "text.onnx"):
        with pytest.raises(TrainingError, match=f"{file} cannot be read: name InsightFace's w600k_mbf.onnx"):
            Recognizer(str(tmp_path / file), faces, tmp_path / "kept", seed=0)
