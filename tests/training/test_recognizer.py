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
from onnx import TensorProto, helper

from training import data, fit
from training.errors import TrainingError
from training.fit import Batches, Config
from training.recognizer import EMBEDDING, INPUT, STAGES, Recognized, recognize
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
def recognized(recognizer: str, faces: data.Faces, folder: Path) -> Recognized:
    return recognize(recognizer, faces, folder, seed=0)


def test_features_are_standardised_over_the_training_faces_and_no_other_face_is_asked(
    faces: data.Faces, recognized: Recognized
) -> None:
    features, said = recognized.features, recognized.answers
    rows = faces.indices(TRAIN)
    assert features.shape == (len(faces), 2, 12 + 3 * 2 * 3)
    np.testing.assert_allclose(features[rows].mean(axis=(0, 1), dtype=np.float32), 0, atol=0.01)
    np.testing.assert_allclose(features[rows].std(axis=(0, 1), dtype=np.float32), 1, atol=0.01)
    np.testing.assert_allclose(said.age[rows].sum(axis=1, dtype=np.float32), 1, atol=0.01)
    others = np.setdiff1d(np.arange(len(faces)), rows)
    assert len(others)
    assert not features[others].any()
    assert not said.age[others].any()


def test_a_run_that_goes_on_asks_nobody_again(faces: data.Faces, recognizer: str, tmp_path: Path) -> None:
    first = recognize(recognizer, faces, tmp_path / "kept", seed=0)
    nobody = dataclasses.replace(
        faces, crops=np.zeros_like(faces.crops)
    )  # would be seen, were they asked again
    again = recognize(recognizer, nobody, tmp_path / "kept", seed=1)
    np.testing.assert_array_equal(again.features, first.features)
    np.testing.assert_array_equal(again.answers.age, first.answers.age)


def test_the_second_features_of_a_face_are_those_of_its_mirror_image(
    faces: data.Faces, recognizer: str, recognized: Recognized, tmp_path: Path
) -> None:
    mirrored = dataclasses.replace(faces, crops=faces.crops[:, :, ::-1])
    of_mirrored = recognize(recognizer, mirrored, tmp_path / "kept", seed=0).features
    rows = faces.indices(TRAIN)
    assert np.abs(of_mirrored - recognized.features)[rows].max() > 0.1
    np.testing.assert_allclose(of_mirrored[rows], recognized.features[rows, ::-1], atol=0.02)


def test_what_is_said_of_a_face_does_not_repeat_its_label(
    faces: data.Faces, recognizer: str, folder: Path, recognized: Recognized, tmp_path: Path
) -> None:
    said = recognized.answers
    row = faces.indices(TRAIN)[0]
    male = faces.male.copy()
    male[row] = not male[row]
    shutil.copytree(folder, tmp_path / "kept")
    (tmp_path / "kept" / "answers.npz").unlink()
    relabelled = recognize(
        recognizer, dataclasses.replace(faces, male=male), tmp_path / "kept", seed=0
    ).answers
    assert relabelled.male[row] == said.male[row]
    assert not np.array_equal(relabelled.male, said.male)  # the heads that did see it say something else


def test_a_batch_holds_the_features_of_its_faces_which_weigh_less_as_training_goes_on(
    faces: data.Faces, recognized: Recognized
) -> None:
    crops, labels, weights = Batches(faces, CONFIG, 0, recognized.answers, recognized.features)[0]
    assert len(crops) == 8
    for position, crop in enumerate(crops):
        (row,) = (row for row in range(len(faces)) if np.array_equal(faces.crops[row], crop))
        assert labels["age"][position, 0] == faces.age_low[row]
        np.testing.assert_allclose(
            labels["features"][position], recognized.features[row].mean(axis=0), atol=1e-3
        )
    later = Batches(faces, CONFIG, 1, recognized.answers, recognized.features)[0][2]
    assert later["features"][0] < weights["features"][0] < 10
    assert later["age"][0] == weights["age"][0] == weights["gender"][7] == 1


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
            recognize(str(tmp_path / file), faces, tmp_path / "kept", seed=0)
