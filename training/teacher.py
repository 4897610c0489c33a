"""A face recognition network, InsightFace's `w600k_mbf.onnx`, as a teacher of age and gender.

A student learns to predict its features (Romero et al. 2015) and the answers of heads on them (Hinton, Vinyals and Dean
2015) for the views that it is trained on (Beyer et al. 2022): a few altered copies of each face, asked about once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import keras
import numpy as np
import onnx
import openvino
from agegender.inference.ages import AGES
from agegender.vision.align import CHIP_SIZE, CROP_SIZE, TEMPLATE
from numpy.typing import NDArray
from rich.progress import track

from training.augment import alter
from training.data import Faces
from training.errors import TrainingError
from training.files import write_aside
from training.losses import AgeLoss, smooth_age_prior

SIDE = 112
EYES_NOSE_MOUTH = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)],
    np.float32,
)
"""Where InsightFace's networks expect the landmarks, (5, 2) x, y in pixels of 112x112."""

EMBEDDING = "516"
STAGES = ("505", "473", "397")
"""Tensors of `w600k_mbf.onnx`: the embedding (n, 512), and the last feature maps of the stages of 7x7, 14x14 and
28x28, whose channels' means and deviations are features too: later layers discard what depends on age."""

FOLDS = 5
"""Each face is answered by heads that were trained on the other four fifths, without its label."""

_BATCH = 64
_HIDDEN = 768
_HEAD_EPOCHS, _HEAD_BATCH, _HEAD_RATE = 14, 256, 1e-3


@dataclass(frozen=True)
class Answers:
    """The teacher's answers about `views` altered copies of each of n faces, memory-mapped."""

    rows: NDArray[np.int64]
    """(n,) of the faces in the cache, in rising order."""
    features: NDArray[np.float16]
    """(n, views, size), each of mean 0 and variance 1."""
    age: NDArray[np.float16]
    """(n, views, 101) probabilities."""
    male: NDArray[np.float16]
    """(n, views) probabilities."""
    seed: int
    """Of the views."""

    @property
    def views(self) -> int:
        """Altered copies of each face."""
        return int(self.features.shape[1])


def view(crop: NDArray[np.uint8], row: int, number: int, seed: int) -> NDArray[np.uint8]:
    """The altered copy `number` of a crop (128, 128, 3), the same at each call."""
    return alter(crop, CROP_SIZE, np.random.default_rng((seed, row, number)))


def ask(file: Path, faces: Faces, rows: NDArray[np.int64], views: int, seed: int, kept_in: Path) -> Answers:
    """Return the teacher's answers about the faces `rows`; compute them, or read them from the cache in `kept_in`.

    `file` is `w600k_mbf.onnx`. Raises TrainingError.
    """
    network = Recognizer(file)
    made_of = (
        f"{hashlib.sha256(file.read_bytes()).hexdigest()} {faces.digest()} {rows.tolist()} {views} {seed}"
    )
    folder = kept_in / f"teacher-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.sort(rows)
    features_file, answers_file = folder / "features.npy", folder / "answers.npz"
    if not features_file.is_file():
        write_aside(features_file, lambda path: _write_features(network, faces, rows, views, seed, path))
    features = np.load(features_file, mmap_mode="r")
    if not answers_file.is_file():
        age, male = _answers_of_heads(faces, rows, features, seed)
        write_aside(answers_file, lambda path: np.savez(path, age=age, male=male))
    with np.load(answers_file) as answers:
        return Answers(rows, features, answers["age"], answers["male"], seed)


class Recognizer:
    """`w600k_mbf.onnx` with its feature maps as outputs. Raises TrainingError if the file is another one.

    On OpenVINO, which computes in 16 bits where the processor can: over twice as fast there as ONNX Runtime. Batches of
    any size would be a third slower.
    """

    def __init__(self, file: Path) -> None:
        try:
            model = onnx.load(file)
            for name in STAGES:
                model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
            network = openvino.Core().read_model(model=model.SerializeToString())
            network.reshape([_BATCH, 3, SIDE, SIDE])
            self._network = openvino.compile_model(network, "CPU")
            self._outputs = [self._network.output(name) for name in (EMBEDDING, *STAGES)]
        except Exception as error:  # protobuf's and OpenVINO's have no class in common
            raise TrainingError(f"{file} cannot be read: name InsightFace's w600k_mbf.onnx.") from error

    def __call__(self, crops: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Features (n, size) of n crops (128, 128, 3), at most 64."""
        to_view, _ = cv2.estimateAffinePartial2D(
            TEMPLATE * (CROP_SIZE / CHIP_SIZE), EYES_NOSE_MOUTH, method=cv2.LMEDS
        )
        batch = np.zeros((_BATCH, 3, SIDE, SIDE), np.float32)
        for place, crop in zip(batch[: len(crops)], crops, strict=True):
            seen = cv2.warpAffine(crop, to_view, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
            place[:] = np.transpose(seen / np.float32(127.5) - 1, (2, 0, 1))
        answer = self._network(batch)
        embedding, *maps = (answer[output][: len(crops)] for output in self._outputs)
        unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
        pooled = [statistic(of, axis=(2, 3)) for of in maps for statistic in (np.mean, np.std)]
        return np.concatenate([unit, *pooled], axis=1)


def _write_features(
    network: Recognizer, faces: Faces, rows: NDArray[np.int64], views: int, seed: int, path: Path
) -> None:
    """Standardised features (n, views, size)."""
    parts = []
    at_once = _BATCH // views
    for start in track(range(0, len(rows), at_once), "Asking the teacher"):
        some = rows[start : start + at_once]
        crops = [view(faces.crops[row], int(row), number, seed) for row in some for number in range(views)]
        parts.append(network(crops).reshape(len(some), views, -1).astype(np.float16))
    features = np.concatenate(parts)
    sample = features[:: -(-len(features) // 8192)].astype(np.float32)
    mean, deviation = sample.mean(axis=(0, 1)), sample.std(axis=(0, 1)) + 1e-6
    for start in range(0, len(features), 1024):
        part = slice(start, start + 1024)
        features[part] = ((features[part] - mean) / deviation).clip(-10, 10)
    with path.open("wb") as file:
        np.save(file, features)


def _answers_of_heads(
    faces: Faces, rows: NDArray[np.int64], features: NDArray[np.float16], seed: int
) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Ages (n, views, 101) and genders (n, views) by heads that were trained without the faces they answer for."""
    n, views, size = features.shape
    age, male = np.zeros((n, views, AGES), np.float16), np.zeros((n, views), np.float16)
    years = np.stack([faces.age_low[rows], faces.age_high[rows]], axis=1).astype(np.float32)
    random = np.random.default_rng(seed)
    folds = np.array_split(random.permutation(n), FOLDS)
    for fold in track(folds, "Training heads"):
        others = np.setdiff1d(np.arange(n), fold)
        keras.utils.set_random_seed(seed)
        heads = _heads(size)
        schedule = keras.optimizers.schedules.CosineDecay(
            _HEAD_RATE, _HEAD_EPOCHS * -(-len(others) // _HEAD_BATCH)
        )
        heads.compile(
            optimizer=keras.optimizers.AdamW(schedule, weight_decay=0.05),
            loss={
                "age": AgeLoss(smooth_age_prior(faces, rows)),
                "gender": keras.losses.BinaryCrossentropy(from_logits=True),
            },
            jit_compile=keras.backend.backend() == "jax",
        )
        labels = {"age": years[others], "gender": faces.male[rows[others], None].astype(np.float32)}
        for _ in range(_HEAD_EPOCHS):
            seen = random.integers(views, size=len(others))
            heads.fit(features[others, seen].astype(np.float32), labels, batch_size=_HEAD_BATCH, verbose=0)
        asked = np.sort(fold)
        for number in range(views):
            answer = heads(features[asked, number].astype(np.float32), training=False)
            age[asked, number] = keras.ops.convert_to_numpy(keras.ops.softmax(answer["age"]))
            male[asked, number] = keras.ops.convert_to_numpy(keras.ops.sigmoid(answer["gender"]))[:, 0]
    return age, male


def _heads(size: int) -> keras.Model:
    inputs = keras.Input((size,))
    hidden = keras.layers.Dropout(0.3)(inputs)
    hidden = keras.layers.Dense(_HIDDEN, activation="gelu", kernel_initializer="lecun_normal")(hidden)
    hidden = keras.layers.Dropout(0.5)(hidden)
    return keras.Model(
        inputs, {"age": keras.layers.Dense(AGES)(hidden), "gender": keras.layers.Dense(1)(hidden)}
    )
