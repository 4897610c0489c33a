"""A face recognition network as a teacher.

It was trained on millions of photographs of known people, and its features tell age and gender better than a network
that was trained on tens of thousands of labelled faces. So a student learns both what a head says that is trained on
the features (Hinton, Vinyals and Dean 2015) and the features themselves (Romero et al. 2015), of the labelled faces and
of any number of mixtures of two, which nobody needs to label (Beyer et al. 2022).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import onnx
import onnxruntime as ort
from keras import layers
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
SCALE_FILE = "scale.npz"
ANSWERS_FILE = "answers.npz"
HEADS_FILE = "heads.keras"

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


class Recognizer:
    """What the recognizer in the file `w600k_mbf.onnx` knows of faces, and heads on it that were trained on `faces`.

    Only training faces are shown to it. `folder` keeps what took long, and gives it where it is there.
    Raises TrainingError.
    """

    features: NDArray[np.float16]
    """(n, 2, size), standardised, of each face and its mirror image; zeros for faces that nothing trains on."""
    answers: SoftTargets
    """What the heads say of face and mirror image on average, each time the head that did not see the face: it does not
    repeat its label."""

    def __init__(self, file: str, faces: Faces, folder: Path, seed: int) -> None:
        folder.mkdir(exist_ok=True)
        self._network = _open(file)
        if not (folder / SCALE_FILE).is_file():
            write_aside(folder / FEATURES_FILE, lambda path: self._write_features(faces, path))
            write_aside(
                folder / SCALE_FILE, lambda path: np.savez(path, mean=self._mean, deviation=self._deviation)
            )
        with np.load(folder / SCALE_FILE) as scale:
            self._mean, self._deviation = scale["mean"], scale["deviation"]
        self.features = np.load(folder / FEATURES_FILE, mmap_mode="r")
        if not (folder / ANSWERS_FILE).is_file():
            heads, answers = _cross_fitted(self.features, faces, seed)
            write_aside(folder / HEADS_FILE, heads.save)
            write_aside(
                folder / ANSWERS_FILE, lambda path: np.savez(path, age=answers.age, male=answers.male)
            )
        self._heads = keras.saving.load_model(folder / HEADS_FILE)
        with np.load(folder / ANSWERS_FILE) as said:
            self.answers = SoftTargets(said["age"], said["male"])

    def ask(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], SoftTargets]:
        """Features (n, size) of (n, 128, 128, 3) `crops` that carry no label, and the heads' mean answers."""
        features = (_features(self._network, crops) - self._mean) / self._deviation
        said = self._heads.predict_on_batch(features)
        return features, SoftTargets(said["age"], said["gender"][:, 0])

    def _write_features(self, faces: Faces, path: Path) -> None:
        rows = faces.indices(TRAIN)
        batches = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
        size = _features(self._network, faces.crops[rows[:1]]).shape[1]
        kept = np.lib.format.open_memmap(path, "w+", np.float16, (len(faces), 2, size))
        total, squares = np.zeros(size), np.zeros(size)
        for some in track(batches, "recognizer"):
            crops = faces.crops[some]
            features = np.stack(
                [_features(self._network, view) for view in (crops, crops[:, :, ::-1])], axis=1
            )
            kept[some] = features
            total += features.sum(axis=(0, 1))
            squares += np.square(features).sum(axis=(0, 1))
        self._mean = (total / (2 * len(rows))).astype(np.float32)
        variance = squares / (2 * len(rows)) - np.square(self._mean)
        self._deviation = (np.sqrt(np.maximum(variance, 0)) + 1e-6).astype(np.float32)
        for some in batches:
            kept[some] = (kept[some] - self._mean) / self._deviation
        kept.flush()


def mixtures(crops: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """(n // 2, 128, 128, 3) mixtures of the first half of `crops` (n, 128, 128, 3) with the second, some mirrored.

    In some the two are blended evenly, in others a part of the face is one's and the rest the other's, with soft
    borders: between mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019).
    """
    n = len(crops) // 2
    crops = np.where(random.random((len(crops), 1, 1, 1)) < 0.5, crops, crops[:, :, ::-1])
    contrast, offset = random.uniform(0, 4, (n, 1, 1)), random.normal(0, 0.7, (n, 1, 1))
    logits = contrast * random.normal(size=(n, 4, 4)) + offset
    whole = [cv2.resize(logit, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_CUBIC) for logit in logits]
    share = (1 / (1 + np.exp(-np.stack(whole))))[..., None]
    mixed = crops[n:] + share * (crops[:n].astype(np.float64) - crops[n:])
    return np.asarray(np.rint(mixed), np.uint8)


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


def _cross_fitted(features: NDArray[np.float16], faces: Faces, seed: int) -> tuple[keras.Model, SoftTargets]:
    """Heads on the features (n, 2, size), and what each says of the fold of the training faces that it did not see.

    The model's probabilities of the ages (n, 101) and of male (n, 1) are the means over all heads.
    """
    age = np.zeros((len(faces), AGES), np.float16)
    male = np.zeros(len(faces), np.float16)
    rows = np.random.default_rng(seed).permutation(faces.indices(TRAIN))
    folds = np.array_split(rows, FOLDS)
    keras.utils.set_random_seed(seed)
    size = features.shape[2]
    inputs = keras.Input((size,))
    heads = []
    for asked in track(folds, "heads on its features"):
        others = np.setdiff1d(rows, asked)
        head = _head(size)
        bins = np.stack([faces.age_low[others], faces.age_high[others]], axis=1)
        labels = {"age": bins.astype(np.float32), "gender": faces.male[others, None].astype(np.float32)}
        views = {output: np.repeat(label, 2, axis=0) for output, label in labels.items()}
        _fit(head, features[others].reshape(-1, size), views)
        logits = head(inputs)
        said = {
            "age": layers.Softmax()(logits["age"]),
            "gender": layers.Activation("sigmoid")(logits["gender"]),
        }
        heads.append(said)
        answer = keras.Model(inputs, said).predict(
            features[asked].reshape(-1, size), batch_size=1024, verbose=0
        )
        age[asked] = answer["age"].reshape(-1, 2, AGES).mean(axis=1)
        male[asked] = answer["gender"].reshape(-1, 2).mean(axis=1)
    mean = {output: layers.Average()([said[output] for said in heads]) for output in heads[0]}
    return keras.Model(inputs, mean), SoftTargets(age, male)


def _head(size: int) -> keras.Model:
    inputs = keras.Input((size,))
    hidden = layers.Dense(768, activation="gelu")(layers.Dropout(0.3)(inputs))
    hidden = layers.Dropout(0.5)(hidden)
    return keras.Model(inputs, {"age": layers.Dense(AGES)(hidden), "gender": layers.Dense(1)(hidden)})


def _fit(head: keras.Model, features: NDArray[np.float16], labels: dict[str, Any]) -> None:
    epochs, batch_size = 8, 256
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, epochs * -(-len(features) // batch_size))
    learner = keras.Model(
        head.input, head.output
    )  # what was compiled itself is not read back without its losses
    learner.compile(
        optimizer=keras.optimizers.AdamW(schedule, weight_decay=0.05),
        loss={"age": age_loss, "gender": gender_loss},
    )
    learner.fit(features, labels, batch_size=batch_size, epochs=epochs, verbose=0)
