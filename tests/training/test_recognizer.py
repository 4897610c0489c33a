"""What a face recognition network sees in faces reaches those that learn from it.

InsightFace's file may not be kept here: a small network of the same kinds of layers, with its inputs' and outputs'
names and random weights, stands in for it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

keras = pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

import onnx
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from training import data, fit
from training.cli import app
from training.errors import TrainingError
from training.fit import Batches, Config
from training.recognizer import EMBEDDING, FOLDS, INPUT, STAGES, aligned, folds, prepare_teacher, read_network
from training.splits import TRAIN

SIZE = 6 + 2 * (4 + 4 + 4)


def network() -> onnx.ModelProto:
    random = np.random.default_rng(0)
    constants, nodes = [], []

    def node(kind: str, inputs: list[str], output: str, *shapes: tuple[int, ...], **options: object) -> None:
        for shape in shapes:
            value = np.abs(random.normal(0.3, 0.3, shape)).astype(np.float32)
            constants.append(numpy_helper.from_array(value, f"{output}.{len(constants)}"))
        added = [constant.name for constant in constants[len(constants) - len(shapes) :]]
        nodes.append(helper.make_node(kind, [*inputs, *added], [output], **options))

    def conv(before: str, name: str, inside: int, side: int, stride: int, group: int) -> None:
        kernel = (4, inside // group, side, side)
        options = {
            "strides": [stride] * 2,
            "pads": [side // 2] * 4,
            "group": group,
            "kernel_shape": [side] * 2,
        }
        node("Conv", [before], f"{name}.c", kernel, (4,), **options)
        node("PRelu", [f"{name}.c"], name, (4, 1, 1))

    late, middle, early = STAGES
    conv(INPUT, "stem", 3, 3, 2, 1)
    conv("stem", early, 4, 3, 2, 2)
    conv(early, middle, 4, 3, 2, 4)
    conv(middle, "straight", 4, 1, 1, 1)
    node("Add", [middle, "straight"], "sum")
    conv("sum", late, 4, 3, 2, 4)
    node("Flatten", [late], "flat")
    node("Gemm", ["flat"], "dense", (6, 4 * 7 * 7), (6,), transB=1)
    node("BatchNormalization", ["dense"], EMBEDDING, (6,), (6,), (6,), (6,), epsilon=1e-5)
    image = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ("n", 3, 112, 112))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (EMBEDDING, *STAGES)]
    graph = helper.make_graph(nodes, "recognizer", [image], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("network") / "small.onnx"
    onnx.save(network(), file)
    return str(file)


@pytest.fixture(scope="module")
def config(recognizer: str) -> Config:
    return Config("A", stages=((32, 2),), batch_size=2 * FOLDS, recognizer=recognizer)


def test_its_features_are_the_unit_embedding_and_means_and_deviations_of_its_stages(recognizer: str) -> None:
    views = np.random.default_rng(1).uniform(-1, 1, (3, 112, 112, 3)).astype(np.float32)
    session = ort.InferenceSession(recognizer, providers=["CPUExecutionProvider"])
    embedding, *stages = session.run([EMBEDDING, *STAGES], {INPUT: views.transpose(0, 3, 1, 2)})
    wanted = [embedding / np.linalg.norm(embedding, axis=1, keepdims=True)]
    for maps in stages:
        wanted += [maps.mean(axis=(2, 3)), maps.std(axis=(2, 3))]
    features = read_network(recognizer).predict(views, verbose=0)
    np.testing.assert_allclose(features, np.concatenate(wanted, axis=1), rtol=1e-4, atol=1e-5)
    assert features.shape == (3, SIZE)


def test_its_view_of_a_crop_has_eyes_and_mouth_where_it_expects_them() -> None:
    # Where the service's alignment puts them in a crop, and where InsightFace's puts them in its own.
    crops = np.zeros((1, 128, 128, 3), np.float32)
    for x, y in ((37, 37), (87, 38), (40, 87), (82, 88)):
        crops[0, y - 1 : y + 2, x - 1 : x + 2] = 255
    view = np.asarray(aligned(crops))[0, :, :, 0]
    bright = np.argwhere(view > 0)
    for x, y in ((38.3, 51.7), (73.5, 51.5), (41.5, 92.4), (70.7, 92.2)):
        assert np.abs(bright - (y, x)).sum(axis=1).min() < 8


def test_what_is_said_of_a_face_does_not_repeat_its_label_and_heads_are_kept(
    faces: data.Faces, recognizer: str, tmp_path: Path
) -> None:
    own = folds(faces, seed=0)
    assert sorted(np.concatenate(own)) == sorted(faces.indices(TRAIN))
    size = min(map(len, own))
    crops = np.concatenate([faces.crops[rows[:size]] for rows in own]).astype(np.float32)

    first = prepare_teacher(recognizer, faces, tmp_path, seed=0)(crops)
    assert first["features"].shape == (len(crops), SIZE)
    np.testing.assert_allclose(np.asarray(first["age"]).sum(axis=1), 1, atol=1e-4)

    # Would be seen, were features or heads made again.
    unseen = dataclasses.replace(faces, crops=np.zeros_like(faces.crops))
    again = prepare_teacher(recognizer, unseen, tmp_path, seed=0)(crops)
    np.testing.assert_array_equal(np.asarray(again["gender"]), np.asarray(first["gender"]))

    (heads,) = tmp_path.glob("*/heads.weights.h5")
    heads.unlink()  # as if it had been killed before it was kept
    resumed = prepare_teacher(recognizer, faces, tmp_path, seed=0)(crops)
    np.testing.assert_allclose(np.asarray(resumed["gender"]), np.asarray(first["gender"]), atol=1e-4)

    male = faces.male.copy()
    male[own[0]] = ~male[own[0]]
    relabelled = prepare_teacher(recognizer, dataclasses.replace(faces, male=male), tmp_path, seed=0)
    said, before = np.asarray(relabelled(crops)["gender"]), np.asarray(first["gender"])
    np.testing.assert_allclose(said[:size], before[:size], atol=1e-3)
    assert np.abs(said - before)[size:].max() > 0.01  # the heads that did learn from these labels


def test_a_batch_holds_as_many_faces_of_each_fold_and_no_label(faces: data.Faces, config: Config) -> None:
    batches = list(Batches(faces, config, 0))
    for crops, weights in batches:
        for position, crop in enumerate(crops["crops"]):
            (row,) = (row for row in range(len(faces)) if np.array_equal(faces.crops[row], crop))
            assert row in folds(faces, config.seed)[position // 2]
        assert crops["parts"].shape == (2 * FOLDS, 4, 4)
        assert sorted(weights) == ["features", "taught"]
    first, later = batches[0][1], Batches(faces, config, 1)[0][1]
    assert 0 < later["features"].max() < first["features"].min() < 10
    assert (later["taught"] == 1).all()
    assert (first["taught"] == 1).all()


def test_a_network_learns_from_it_also_after_a_stop_and_is_kept_without_the_features(
    faces: data.Faces, config: Config, tmp_path: Path
) -> None:
    fit.train(config, faces, tmp_path / "whole", resume=False, log=print)
    record, history = fit.load_record(tmp_path / "whole")
    assert record["recognizer"] == config.recognizer
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


def test_a_file_that_is_no_such_network_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no network")
    for file in ("nowhere.onnx", "text.onnx"):
        with pytest.raises(TrainingError, match=f"{file} cannot be read: name InsightFace's w600k_mbf.onnx"):
            read_network(str(tmp_path / file))


def test_a_teacher_beside_it_is_refused() -> None:
    named = ["train", "B", "--teacher", "models/age_gender_A.keras", "--recognizer", "w600k_mbf.onnx"]
    refused = CliRunner().invoke(app, named)
    assert refused.exit_code == 2
    assert "a teacher or a recognizer: name one of the two" in refused.output
