"""A face recognition network as a teacher.

It was trained on millions of photographs of known people, and its features tell age and gender better than a network
that was trained on tens of thousands of labelled faces. So a student learns both the features (Romero et al. 2015) and
what heads on them say that were trained to tell age and gender (Hinton, Vinyals and Dean 2015). It is asked about the
very views that the student sees (Beyer et al. 2022).
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
from agegender.inference.ages import AGES
from agegender.vision.align import CHIP_SIZE, CROP_SIZE, TEMPLATE
from keras import layers, ops
from numpy.typing import NDArray
from rich.progress import track

from training.augment import Augment
from training.data import Faces
from training.errors import TrainingError
from training.files import write_aside
from training.losses import age_loss, gender_loss
from training.splits import TRAIN

FEATURES_FILE = "features.npy"
HEADS_FILE = "heads.weights.h5"

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
HEADS = 3
"""How many heads, which differ by their first weights, answer together for each fold."""

VIEWS = 4
"""Of each face that heads learn from: as it is, mirrored, and altered twice."""

_BATCH = 32
_STANDARDISED_BY = 8192
"""From how many faces, with all their views, features' mean and variance are taken."""

_HIDDEN = 768
_HEAD_BATCH, _HEAD_EPOCHS, _HEAD_RATE = 256, 14, 1e-3


@dataclass(frozen=True)
class Teacher:
    """What a student asks about crops of training faces, of which each fold's stand together."""

    network: keras.Model
    """Views (n, 112, 112, 3) in -1..1 to features (n, size), standardised."""
    heads: keras.Model
    """Features to logits (n, FOLDS * HEADS, 102), of ages and of male: each fold's were trained without its faces."""

    def __call__(self, crops: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
        """Probabilities of `age` (n, 101) and of male, `gender` (n, 1), and `features` of (n, 128, 128, 3) crops."""
        features = self.network(aligned(crops), training=False)
        parts = ops.split(self.heads(features, training=False), FOLDS)
        logits = ops.concatenate([part[:, HEADS * fold :][:, :HEADS] for fold, part in enumerate(parts)])
        age = ops.mean(ops.softmax(logits[..., :AGES], axis=-1), axis=1)
        male = ops.mean(ops.sigmoid(logits[..., AGES:]), axis=1)
        said = {"age": age, "gender": male, "features": features}
        return {output: ops.stop_gradient(answer) for output, answer in said.items()}


def prepare_teacher(file: str, faces: Faces, kept_in: Path, seed: int) -> Teacher:
    """The teacher that the network in the file `w600k_mbf.onnx` becomes by the training faces.

    A folder in `kept_in`, of this network, these faces, so many views and this seed, keeps each step of it, and gives
    those that are there. Raises TrainingError.
    """
    network = read_network(file)
    made_of = f"{hashlib.sha256(Path(file).read_bytes()).hexdigest()} {faces.digest()} {VIEWS} {seed}"
    folder = kept_in / f"recognizer-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"
    folder.mkdir(exist_ok=True)
    if not (folder / FEATURES_FILE).is_file():
        write_aside(folder / FEATURES_FILE, lambda path: _write_features(network, faces, seed, path))
    features = np.load(folder / FEATURES_FILE, mmap_mode="r")
    some = features[:: -(-len(features) // _STANDARDISED_BY)].astype(np.float32)
    standard = layers.Normalization(mean=some.mean(axis=(0, 1)), variance=some.var(axis=(0, 1)) + 1e-12)
    network = keras.Model(network.input, standard(network.output))
    network.trainable = False

    keras.utils.set_random_seed(seed)
    heads = _heads(features.shape[-1])
    if (folder / HEADS_FILE).is_file():
        heads.load_weights(folder / HEADS_FILE)
    else:
        model, batches = keras.Sequential([standard, heads]), _Features(faces, features, seed)
        schedule = keras.optimizers.schedules.CosineDecay(_HEAD_RATE, _HEAD_EPOCHS * len(batches))
        model.compile(
            optimizer=keras.optimizers.AdamW(schedule, weight_decay=0.05),
            loss=_heads_loss,
            jit_compile=keras.backend.backend() == "jax",
        )
        model.fit(batches, epochs=_HEAD_EPOCHS, shuffle=False)
        write_aside(folder / HEADS_FILE, heads.save_weights)
    heads.trainable = False
    return Teacher(network, heads)


def _heads(size: int) -> keras.Model:
    """Standardised features (n, `size`) to logits, as `Teacher.heads` are."""
    inputs, number = keras.Input((size,)), FOLDS * HEADS
    hidden = layers.Dropout(0.3)(inputs)
    hidden = layers.Dense(number * _HIDDEN, activation="gelu", kernel_initializer="lecun_normal")(hidden)
    hidden = layers.Reshape((number, _HIDDEN))(layers.Dropout(0.5)(hidden))
    first = keras.initializers.RandomNormal(stddev=_HIDDEN**-0.5)  # Keras' own takes them for one convolution
    logits = layers.EinsumDense("nih,iho->nio", (number, AGES + 1), bias_axes="io", kernel_initializer=first)
    return keras.Model(inputs, logits(hidden))


def _heads_loss(label: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Loss of each face in a batch, (n,), by the heads of all folds but its own.

    `label` is (n, 4): first and last year, whether male, and the fold.
    """
    number = logits.shape[1]
    each = ops.repeat(label, number, axis=0)
    said = ops.reshape(logits, (-1, AGES + 1))
    errors = age_loss(each[:, :2], said[:, :AGES]) + gender_loss(each[:, 2:3], said[:, AGES:])
    of_fold = ops.cast(ops.arange(number) // HEADS, "float32")
    others = ops.cast(label[:, 3:] != of_fold, "float32")
    return ops.mean(ops.reshape(errors, (-1, number)) * others, axis=1)


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


def _write_features(network: keras.Model, faces: Faces, seed: int, path: Path) -> None:
    """(n, VIEWS, size) of the n training faces."""
    rows = faces.indices(TRAIN)
    shape = (len(rows), VIEWS, network.output.shape[1])
    augment = Augment(seed=seed)
    with path.open("wb") as file:  # no memory map, in which a full disk would be the program's death
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for start in track(range(0, len(rows), _BATCH), "recognizer"):
            crops = np.asarray(faces.crops[rows[start : start + _BATCH]], np.float32)
            views = [crops, np.ascontiguousarray(crops[:, :, ::-1])]
            views += [augment.alter(crops) for _ in range(VIEWS - len(views))]
            features = [network.predict_on_batch(aligned(view)) for view in views]
            file.write(np.stack(features, axis=1).astype("<f2").tobytes())


class _Features(keras.utils.PyDataset):
    """Features and labels of the training faces, in each epoch in another order and of other views."""

    def __init__(self, faces: Faces, features: NDArray[np.float16], seed: int) -> None:
        super().__init__()
        rows = faces.indices(TRAIN)
        own = [np.isin(rows, fold) for fold in folds(faces, seed)]
        labels = (faces.age_low[rows], faces.age_high[rows], faces.male[rows], np.argmax(own, axis=0))
        self._features, self._labels = features, np.stack(labels, axis=1).astype(np.float32)
        self._random = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self._labels) // _HEAD_BATCH)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
        some = self._order[index * _HEAD_BATCH :][:_HEAD_BATCH]
        views = self._random.integers(VIEWS, size=len(some))
        return self._features[some, views], self._labels[some]

    def on_epoch_end(self) -> None:
        """Shuffle."""
        self._order = self._random.permutation(len(self._labels))
