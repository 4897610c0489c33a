"""A face recognition network as a teacher.

It was trained on millions of photographs of known people, and its features tell age and gender better than a network
that was trained on tens of thousands of labelled faces. So a student learns both the features (Romero et al. 2015) and
what copies of the network say that were tuned to tell age and gender (Hinton, Vinyals and Dean 2015). They are asked
about the very views that the student sees (Beyer et al. 2022).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import onnx
from keras import layers, ops
from numpy.typing import NDArray
from rich.progress import track

from app.inference.ages import AGES
from app.vision.align import CHIP_SIZE, CROP_SIZE, TEMPLATE
from training.augment import Augment
from training.data import Faces
from training.errors import TrainingError
from training.files import write_aside
from training.losses import age_loss, gender_loss
from training.seeds import reseed
from training.splits import TRAIN

FEATURES_FILE = "features.npy"

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
_STANDARDISED_BY = 8192
"""From how many faces, of which each has two views, features' mean and variance are taken."""

_TUNING_BATCH = 256
_HEAD_EPOCHS, _HEAD_RATE = 16, 1e-3
_TUNING_EPOCHS, _TUNING_RATE = 5, 1e-4
"""The rate is small, so that what the network knows of faces is not overwritten."""


@dataclass(frozen=True)
class Teacher:
    """What a student asks about crops of training faces, of which each fold's stand together."""

    network: keras.Model
    """Views (n, 112, 112, 3) in -1..1 to features (n, size), standardised."""
    folds: tuple[keras.Model, ...]
    """Views to logits, each tuned on the faces of all folds but its own: it does not repeat their labels."""

    def __call__(self, crops: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
        """Probabilities of `age` (n, 101) and of male, `gender` (n, 1), and `features` of (n, 128, 128, 3) crops."""
        views = aligned(crops)
        parts = ops.split(views, FOLDS)
        logits = [fold(part, training=False) for fold, part in zip(self.folds, parts, strict=True)]
        age = ops.softmax(ops.concatenate([of_fold["age"] for of_fold in logits]), axis=-1)
        male = ops.sigmoid(ops.concatenate([of_fold["gender"] for of_fold in logits]))
        said = {"age": age, "gender": male, "features": self.network(views, training=False)}
        return {output: ops.stop_gradient(answer) for output, answer in said.items()}


def prepare_teacher(file: str, faces: Faces, kept_in: Path, seed: int) -> Teacher:
    """The teacher that the network in the file `w600k_mbf.onnx` becomes by the training faces.

    A folder in `kept_in`, of this network, these faces and this seed, keeps each step of it, and gives those that are
    there. Raises TrainingError.
    """
    network = read_network(file)
    made_of = f"{hashlib.sha256(Path(file).read_bytes()).hexdigest()} {faces.digest()} {seed}"
    folder = kept_in / f"recognizer-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"
    folder.mkdir(exist_ok=True)
    if not (folder / FEATURES_FILE).is_file():
        write_aside(folder / FEATURES_FILE, lambda path: _write_features(network, faces, path))
    features = np.load(folder / FEATURES_FILE, mmap_mode="r")
    some = features[:: -(-len(features) // _STANDARDISED_BY)].astype(np.float32)
    standard = layers.Normalization(mean=some.mean(axis=(0, 1)), variance=some.var(axis=(0, 1)) + 1e-12)
    network = keras.Model(network.input, standard(network.output))

    keras.utils.set_random_seed(seed)
    model, head = _tunable(network)
    untuned = model.get_weights()
    fit_head = _Fit(keras.Sequential([standard, head]), _HEAD_RATE, _HEAD_EPOCHS)
    crops = keras.Input((CROP_SIZE, CROP_SIZE, 3))
    tune = _Fit(keras.Model(crops, model(aligned(Augment(seed=seed)(crops)))), _TUNING_RATE, _TUNING_EPOCHS)
    rows, own = faces.indices(TRAIN), folds(faces, seed)
    tuned = []
    for number, asked in enumerate(own):
        kept = folder / f"fold_{number}.weights.h5"
        if not kept.is_file():
            others = np.flatnonzero(~np.isin(rows, asked))
            model.set_weights(untuned)
            fit_head(_Features(faces, rows[others], seed, features, others), seed, number)
            tune(_Crops(faces, rows[others], seed), seed, number)
            write_aside(kept, model.save_weights)
        tuned.append(_tunable(network)[0])
        tuned[-1].load_weights(kept)
        tuned[-1].trainable = False
    network.trainable = False
    return Teacher(network, tuple(tuned))


def _tunable(network: keras.Model) -> tuple[keras.Model, keras.Model]:
    """A copy of `network` that goes on to logits, and its head alone."""
    body = keras.models.clone_model(network)
    body.set_weights(network.get_weights())
    inputs = keras.Input(network.output.shape[1:])
    hidden = layers.Dense(768, activation="gelu")(layers.Dropout(0.3)(inputs))
    hidden = layers.Dropout(0.5)(hidden)
    head = keras.Model(inputs, {"age": layers.Dense(AGES)(hidden), "gender": layers.Dense(1)(hidden)})
    return keras.Model(body.input, head(body.output)), head


def folds(faces: Faces, seed: int) -> list[NDArray[np.int64]]:
    """Rows of the training faces, in `FOLDS` parts."""
    return np.array_split(np.random.default_rng(seed).permutation(faces.indices(TRAIN)), FOLDS)


def aligned(crops: keras.KerasTensor) -> keras.KerasTensor:
    """The recognizer's views (n, 112, 112, 3) in -1..1 of crops (n, 128, 128, 3) in 0..255."""
    to_view, _ = cv2.estimateAffinePartial2D(
        TEMPLATE * (CROP_SIZE / CHIP_SIZE), EYES_NOSE_MOUTH, method=cv2.LMEDS
    )
    from_view = np.append(cv2.invertAffineTransform(to_view), [0, 0]).astype(np.float32)
    of_each = ops.zeros_like(crops[:, :1, 0, 0]) + from_view  # one for all works in TensorFlow alone
    views = ops.image.affine_transform(crops, of_each, interpolation="bilinear", fill_mode="nearest")
    return views[:, :SIDE, :SIDE] / 127.5 - 1.0


def read_network(file: str) -> keras.Model:
    """The graph of an ONNX file: views (n, 112, 112, 3) to features (n, size). Raises TrainingError."""
    try:
        graph = onnx.load(file).graph
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        inputs = keras.Input((SIDE, SIDE, 3))
        known = {INPUT: inputs}
        for node in graph.node:
            tensors = [known[name] for name in node.input if name in known]
            known[node.output[0]] = _node(node, tensors, [constants[n] for n in node.input if n in constants])
        unit = layers.UnitNormalization()(known[EMBEDDING])
        pooled = [statistic(known[name], axis=(1, 2)) for name in STAGES for statistic in (ops.mean, ops.std)]
    except Exception as error:  # protobuf's, the system's and a missing tensor have no class in common
        raise TrainingError(f"{file} cannot be read: name InsightFace's w600k_mbf.onnx.") from error
    return keras.Model(inputs, ops.concatenate([unit, *pooled], axis=1))


def _node(node: Any, tensors: list[keras.KerasTensor], constants: list[NDArray[np.float32]]) -> Any:
    """What a node of the graph makes of tensors, whose channels come last here."""
    options = {option.name: onnx.helper.get_attribute_value(option) for option in node.attribute}
    x = tensors[0]
    match node.op_type:
        case "Add":
            return layers.Add()(tensors)
        case "Flatten":
            return layers.Flatten()(layers.Permute((3, 1, 2))(x))
        case "PRelu":
            layer, weights = layers.PReLU(shared_axes=[1, 2]), [constants[0].reshape(1, 1, -1)]
        case "Gemm":
            layer, weights = layers.Dense(len(constants[1])), [constants[0].T, constants[1]]
        case "BatchNormalization":
            layer, weights = layers.BatchNormalization(epsilon=options["epsilon"], trainable=False), constants
        case "Conv":
            kernel, bias = constants
            side, stride = kernel.shape[2], options["strides"][0]
            if options["pads"][0]:
                x = layers.ZeroPadding2D(options["pads"][0])(x)
            if options["group"] > 1:
                return _in_groups(x, kernel, bias, stride)
            layer = layers.Conv2D(len(kernel), side, stride)
            weights = [kernel.transpose(2, 3, 1, 0), bias]
        case _:
            raise ValueError(f"{node.op_type} is not among what w600k_mbf.onnx is made of")
    y = layer(x)
    layer.set_weights(weights)
    return y


def _in_groups(
    x: keras.KerasTensor, kernel: NDArray[np.float32], bias: NDArray[np.float32], stride: int
) -> keras.KerasTensor:
    """A convolution in groups of as many channels out as in, by depthwise ones: TensorFlow's own is slow on a CPU.

    `kernel` is (channels, channels of a group, side, side). Each depthwise one sees another channel of the group.
    """
    channels, size, side, _ = kernel.shape
    own = np.arange(channels)
    terms = []
    for turn in range(size):
        other = own - own % size + (own + turn) % size
        layer = layers.DepthwiseConv2D(side, stride, use_bias=turn == 0)
        terms.append(layer(ops.take(x, other, axis=3) if turn else x))
        weights = kernel[own, other % size].transpose(1, 2, 0)[..., None]
        layer.set_weights([weights, bias] if turn == 0 else [weights])
    return layers.Add()(terms) if turn else terms[0]


def _write_features(network: keras.Model, faces: Faces, path: Path) -> None:
    """(n, 2, size) of the n training faces and their mirror images."""
    rows = faces.indices(TRAIN)
    kept = np.lib.format.open_memmap(path, "w+", np.float16, (len(rows), 2, network.output.shape[1]))
    for start in track(range(0, len(rows), _BATCH), "recognizer"):
        crops = np.asarray(faces.crops[rows[start : start + _BATCH]], np.float32)
        for view, seen in enumerate((crops, crops[:, :, ::-1])):
            kept[start : start + _BATCH, view] = network.predict_on_batch(aligned(np.ascontiguousarray(seen)))
    kept.flush()


class _Crops(keras.utils.PyDataset):
    """Crops and labels of `rows`, in another order in each epoch."""

    def __init__(self, faces: Faces, rows: NDArray[np.int64], seed: int) -> None:
        super().__init__()
        self._faces = faces
        self._rows = rows
        self._random = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self._rows) // _TUNING_BATCH)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], dict[str, NDArray[np.float32]]]:
        some = self._order[index * _TUNING_BATCH :][:_TUNING_BATCH]
        rows, faces = self._rows[some], self._faces
        bins = np.stack([faces.age_low[rows], faces.age_high[rows]], axis=1)
        labels = {"age": bins.astype(np.float32), "gender": faces.male[rows, None].astype(np.float32)}
        return self._seen(some), labels

    def _seen(self, some: NDArray[np.int64]) -> NDArray[Any]:
        return self._faces.crops[self._rows[some]]

    def on_epoch_end(self) -> None:
        """Shuffle."""
        self._order = self._random.permutation(len(self._rows))


class _Features(_Crops):
    """Their features in place of the crops, of each face or of its mirror image."""

    def __init__(
        self,
        faces: Faces,
        rows: NDArray[np.int64],
        seed: int,
        features: NDArray[np.float16],
        places: NDArray[np.int64],
    ) -> None:
        super().__init__(faces, rows, seed)
        self._features, self._places = features, places

    def _seen(self, some: NDArray[np.int64]) -> NDArray[Any]:
        return self._features[self._places[some], self._random.integers(2, size=len(some))]


class _Fit:
    """Trains a model anew with each call, and is compiled only once."""

    def __init__(self, model: keras.Model, rate: float, epochs: int) -> None:
        self._model, self._rate, self._epochs = model, rate, epochs

    def __call__(self, batches: _Crops, seed: int, part: int) -> None:
        if not self._model.compiled:
            schedule = keras.optimizers.schedules.CosineDecay(self._rate, self._epochs * len(batches))
            self._model.compile(
                optimizer=keras.optimizers.AdamW(schedule, weight_decay=0.05),
                loss={"age": age_loss, "gender": gender_loss},
                jit_compile=keras.backend.backend() == "jax",
            )
        for variable in self._model.optimizer.variables:
            variable.assign(ops.zeros(variable.shape, variable.dtype))
        reseed(self._model.variables, seed, part)
        self._model.fit(batches, epochs=self._epochs, shuffle=False)
