"""What a face recognition network sees in faces reaches those that learn from it.

InsightFace's file may not be kept here: a graph with its inputs' and outputs' names, which only averages colours,
stands in for it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

import onnx
from onnx import TensorProto, helper

from training import data, fit
from training.errors import TrainingError
from training.fit import Batches, Config
from training.recognizer import EMBEDDING, INPUT, STAGES, recognize
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


def test_features_are_standardised_over_the_training_faces_and_no_other_face_is_asked(
    faces: data.Faces, recognizer: str, tmp_path: Path
) -> None:
    features, said = recognize(recognizer, faces, tmp_path / "kept", seed=0)
    rows = faces.indices(TRAIN)
    assert features.shape == (len(faces), 12 + 3 * 2 * 3)
    np.testing.assert_allclose(features[rows].mean(axis=0, dtype=np.float32), 0, atol=0.01)
    np.testing.assert_allclose(features[rows].std(axis=0, dtype=np.float32), 1, atol=0.01)
    np.testing.assert_allclose(said.age[rows].sum(axis=1, dtype=np.float32), 1, atol=0.01)
    others = np.setdiff1d(np.arange(len(faces)), rows)
    assert len(others)
    assert not features[others].any()
    assert not said.age[others].any()
    # A run that goes on does not ask again.
    kept, still = recognize("gone.onnx", faces, tmp_path / "kept", seed=0)
    np.testing.assert_array_equal(kept, features)
    np.testing.assert_array_equal(still.age, said.age)


def test_what_is_said_of_a_face_does_not_repeat_its_label(
    faces: data.Faces, recognizer: str, tmp_path: Path
) -> None:
    _, said = recognize(recognizer, faces, tmp_path / "kept", seed=0)
    row = faces.indices(TRAIN)[0]
    male = faces.male.copy()
    male[row] = not male[row]
    (tmp_path / "kept" / "answers.npz").unlink()
    _, relabelled = recognize(recognizer, dataclasses.replace(faces, male=male), tmp_path / "kept", seed=0)
    assert relabelled.male[row] == said.male[row]
    assert not np.array_equal(relabelled.male, said.male)  # the heads that did see it say something else


def test_labels_carry_the_features_of_their_faces(faces: data.Faces) -> None:
    features = np.arange(len(faces), dtype=np.float16)[:, None]
    crops, labels = Batches(faces, CONFIG, epoch=0, features=features)[0]
    for crop, (row,) in zip(crops, labels["features"], strict=True):
        np.testing.assert_array_equal(crop, faces.crops[int(row)])


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
