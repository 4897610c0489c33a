"""A face recognition network as a teacher.

It was trained on millions of photographs of known people, and its features tell age and gender better than a network
that was trained on tens of thousands of labelled faces. So a student learns both what a head says that is trained on
the features (Hinton, Vinyals and Dean 2015) and the features themselves (Romero et al. 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import onnx
import onnxruntime as ort
from keras import layers, ops
from numpy.typing import NDArray
from rich.progress import track

from app.inference.ages import AGES
from app.vision.align import CHIP_SIZE, CROP_SIZE, TEMPLATE
from training.data import Faces
from training.errors import TrainingError
from training.files import write_aside
from training.losses import age_loss, gender_loss
from training.splits import TRAIN
from training.teachers import SoftTargets

FEATURES_FILE = "features.npy"
ANSWERS_FILE = "answers.npz"

SIDE = 112
EYES_NOSE_MOUTH = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)],
    np.float32,
)
"""Where InsightFace's networks expect the landmarks, (5, 2) x, y in pixels of 112x112."""

INPUT = "input.1"
EMBEDDING = "516"
STAGES = ("505", "473", "397")
"""Tensors of `w600k_mbf.onnx`: the embedding (n, 512), and the last feature maps of the stages of 7x7, 14x14 and
28x28, whose channels' means and deviations are features too: what tells an age is lost on the way to an identity."""

FOLDS = 5
_BATCH = 32


@dataclass(frozen=True)
class Recognized:
    """What the recognizer knows of the training faces, one row for each face; the rest are zeros."""

    features: NDArray[np.float16]
    """(n, 2, size), standardised, of each face and its mirror image."""
    answers: SoftTargets
    """What heads on the features say of face and mirror image on average, each time the head that did not see the face:
    it does not repeat its label."""


def recognize(file: str, faces: Faces, folder: Path, seed: int) -> Recognized:
    """Show the training faces to the network in the file `w600k_mbf.onnx`, and train heads on what it sees.

    `folder` keeps both, and gives them where they are there. Raises TrainingError.
    """
    folder.mkdir(exist_ok=True)
    if not (folder / FEATURES_FILE).is_file():
        network = _open(file)
        write_aside(folder / FEATURES_FILE, lambda path: _write_features(network, faces, path))
    features = np.load(folder / FEATURES_FILE, mmap_mode="r")
    if not (folder / ANSWERS_FILE).is_file():
        answers = _cross_fitted(features, faces, seed)
        write_aside(folder / ANSWERS_FILE, lambda path: np.savez(path, age=answers.age, male=answers.male))
    with np.load(folder / ANSWERS_FILE) as said:
        return Recognized(features, SoftTargets(said["age"], said["male"]))


def _write_features(network: ort.InferenceSession, faces: Faces, path: Path) -> None:
    rows = faces.indices(TRAIN)
    batches = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
    size = _features(network, faces.crops[rows[:1]]).shape[1]
    kept = np.lib.format.open_memmap(path, "w+", np.float16, (len(faces), 2, size))
    total, squares = np.zeros(size), np.zeros(size)
    for some in track(batches, "recognizer"):
        crops = faces.crops[some]
        features = np.stack([_features(network, view) for view in (crops, crops[:, :, ::-1])], axis=1)
        kept[some] = features
        total += features.sum(axis=(0, 1))
        squares += np.square(features).sum(axis=(0, 1))
    mean = total / (2 * len(rows))
    deviation = np.sqrt(np.maximum(squares / (2 * len(rows)) - np.square(mean), 0)) + 1e-6
    for some in batches:
        kept[some] = (kept[some] - mean) / deviation
    kept.flush()


def _features(network: ort.InferenceSession, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    to_template, _ = cv2.estimateAffinePartial2D(
        TEMPLATE * (CROP_SIZE / CHIP_SIZE), EYES_NOSE_MOUTH, method=cv2.LMEDS
    )
    aligned = [
        cv2.warpAffine(np.ascontiguousarray(crop), to_template, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
        for crop in crops
    ]
    images = np.stack(aligned).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    embedding, *maps = network.run([EMBEDDING, *STAGES], {INPUT: np.ascontiguousarray(images)})
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    pooled = [statistic(found, axis=(2, 3)) for found in maps for statistic in (np.mean, np.std)]
    return np.concatenate([unit, *pooled], axis=1)


def _open(recognizer: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # the file promises one face at a time, so every batch would warn
    try:
        model = onnx.load(recognizer)
        model.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in STAGES
        )
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # protobuf's, ONNX Runtime's and the system's have no class in common
        raise TrainingError(f"{recognizer} cannot be read: name InsightFace's w600k_mbf.onnx.") from error


def _cross_fitted(features: NDArray[np.float16], faces: Faces, seed: int) -> SoftTargets:
    """What heads on the features (n, 2, size) say, each of the fold of the training faces that it did not see."""
    age = np.zeros((len(faces), AGES), np.float16)
    male = np.zeros(len(faces), np.float16)
    rows = np.random.default_rng(seed).permutation(faces.indices(TRAIN))
    folds = np.array_split(rows, FOLDS)
    keras.utils.set_random_seed(seed)
    size = features.shape[2]
    for asked in track(folds, "heads on its features"):
        others = np.setdiff1d(rows, asked)
        head = _head(size)
        bins = np.stack([faces.age_low[others], faces.age_high[others]], axis=1)
        labels = {"age": bins.astype(np.float32), "gender": faces.male[others, None].astype(np.float32)}
        views = {output: np.repeat(label, 2, axis=0) for output, label in labels.items()}
        _fit(head, features[others].reshape(-1, size), views)
        logits = head.predict(features[asked].reshape(-1, size), batch_size=1024, verbose=0)
        age[asked] = ops.convert_to_numpy(ops.softmax(logits["age"])).reshape(-1, 2, AGES).mean(axis=1)
        male[asked] = ops.convert_to_numpy(ops.sigmoid(logits["gender"])).reshape(-1, 2).mean(axis=1)
    return SoftTargets(age, male)


def _head(size: int) -> keras.Model:
    inputs = keras.Input((size,))
    hidden = layers.Dense(768, activation="gelu")(layers.Dropout(0.3)(inputs))
    hidden = layers.Dropout(0.5)(hidden)
    return keras.Model(inputs, {"age": layers.Dense(AGES)(hidden), "gender": layers.Dense(1)(hidden)})


def _fit(head: keras.Model, features: NDArray[np.float16], labels: dict[str, Any]) -> None:
    epochs, batch_size = 8, 256
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, epochs * -(-len(features) // batch_size))
    head.compile(
        optimizer=keras.optimizers.AdamW(schedule, weight_decay=0.05),
        loss={"age": age_loss, "gender": gender_loss},
    )
    head.fit(features, labels, batch_size=batch_size, epochs=epochs, verbose=0)
