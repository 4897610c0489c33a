"""The two networks: RGB crops in, age logits and gender logit out."""

from __future__ import annotations

import zipfile
import zlib
from typing import Literal

import keras
from agegender.inference.ages import AGES
from agegender.vision.align import CROP_SIZE
from keras import layers

from training.errors import TrainingError

Architecture = Literal["residual", "mobilenet_v2"]

# `keras.applications` builds MobileNetV2 with momentum 0.999: over a few hundred steps an epoch the running
# statistics then lag far behind the weights, and validation jumps about while training improves.
BATCH_NORM_MOMENTUM = 0.9


def build(architecture: Architecture, dropout: float, backbone: str | None = None) -> keras.Model:
    """A network from (n, side, side, 3) RGB in 0..255, of any side, to `{"age": (n, 101), "gender": (n, 1)}` logits.

    Weights are random, but for those of MobileNetV2 if `backbone` is "imagenet" (downloaded) or names a file.
    """
    inputs = keras.Input((None, None, 3), name="image")
    scaled = layers.Rescaling(1 / 127.5, offset=-1.0, name="rescale")(inputs)
    residual = architecture == "residual"
    features = _residual_network(scaled) if residual else _mobilenet_v2(scaled, backbone)
    pooled = layers.GlobalAveragePooling2D(name="pool")(features)
    pooled = layers.Dropout(dropout, name="dropout")(pooled)
    outputs = {
        "age": layers.Dense(AGES, kernel_initializer="zeros", name="age_logits")(pooled),
        "gender": layers.Dense(1, kernel_initializer="zeros", name="gender_logit")(pooled),
    }
    return keras.Model(inputs, outputs, name=architecture)


def begin(architecture: Architecture, dropout: float, weights: str) -> keras.Model:
    """The network with its first weights: "random", "imagenet" (downloaded), a file of MobileNetV2's, or a `.keras`
    file that `make` wrote. Raises TrainingError.
    """
    if weights == "random":
        return build(architecture, dropout)
    try:
        if not weights.endswith(".keras"):
            return build(architecture, dropout, weights)
        network = build(architecture, dropout)
        served = keras.saving.load_model(weights, compile=False)
        inner = next(layer for layer in served.layers if isinstance(layer, keras.Model))
        network.set_weights(inner.get_weights())
    except (OSError, ValueError, KeyError, StopIteration, zipfile.BadZipFile, zlib.error) as error:
        raise TrainingError(f"{weights} holds no weights of the network {architecture}: {error}") from error
    return network


def freeze(network: keras.Model, last: str) -> None:
    """Keep the weights of all layers up to `last`, batch norms' statistics too. Raises TrainingError."""
    names = [layer.name for layer in network.layers]
    if last not in names:
        raise TrainingError(f"last_frozen_layer: {network.name} has no layer {last}.")
    for layer in network.layers[: names.index(last) + 1]:
        layer.trainable = False


def with_probabilities(network: keras.Model, side: int = CROP_SIZE) -> keras.Model:
    """`network` as it is served: (n, 128, 128, 3) uint8 in, probabilities `age` (n, 101) and `gender` (n,) out.

    The network sees the crops at `side` pixels. `gender` is the probability of male.
    """
    inputs = keras.Input((CROP_SIZE, CROP_SIZE, 3), dtype="uint8", name="image")
    crops = keras.ops.cast(inputs, "float32")
    if side != CROP_SIZE:
        # Not by `layers.Resizing`, behind which the network would be traced as in training, dropout and all.
        crops = keras.ops.image.resize(crops, (side, side), interpolation="bilinear")
    logits = network(crops)
    age = layers.Softmax(name="age")(logits["age"])
    male = layers.Activation("sigmoid", name="sigmoid")(logits["gender"])
    return keras.Model(
        inputs, {"age": age, "gender": layers.Reshape((), name="gender")(male)}, name=network.name
    )


def _mobilenet_v2(scaled: keras.KerasTensor, weights: str | None) -> keras.KerasTensor:
    """MobileNetV2 1.0 (Sandler et al. 2018) up to its last feature map."""
    backbone = keras.applications.MobileNetV2(
        input_shape=(CROP_SIZE, CROP_SIZE, 3), include_top=False, weights=weights
    )
    free = keras.applications.MobileNetV2(input_tensor=scaled, include_top=False, weights=None)
    free.set_weights(backbone.get_weights())
    for layer in free.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = BATCH_NORM_MOMENTUM
    return free.output


# Stages of A as (width, residual blocks); each begins by halving the image. Dense 3x3 convolutions run nearer to
# a CPU's peak than depthwise ones, so that at B's inference time A affords about twice the multiplications.
A_STEM = 24
A_STAGES = ((32, 1), (72, 2), (144, 2), (240, 1))


def _residual_network(scaled: keras.KerasTensor) -> keras.KerasTensor:
    """A residual network (He et al. 2016) with squeeze-and-excitation (Hu et al. 2018) in its later stages."""
    x = _conv_norm(scaled, A_STEM, strides=2, name="stem")
    x = layers.Activation("relu", name="stem_relu")(x)
    for stage, (width, blocks) in enumerate(A_STAGES, start=1):
        x = _conv_norm(x, width, strides=2, name=f"stage{stage}_down")
        x = layers.Activation("relu", name=f"stage{stage}_down_relu")(x)
        for block in range(1, blocks + 1):
            x = _residual_block(x, width, squeeze=stage >= 3, name=f"stage{stage}_block{block}")
    x = _conv_norm(x, 2 * A_STAGES[-1][0], kernel=1, name="head")
    return layers.Activation("relu", name="head_relu")(x)


def _residual_block(x: keras.KerasTensor, width: int, *, squeeze: bool, name: str) -> keras.KerasTensor:
    y = _conv_norm(x, width, name=f"{name}_conv1")
    y = layers.Activation("relu", name=f"{name}_relu1")(y)
    y = _conv_norm(y, width, name=f"{name}_conv2", gamma="zeros")
    if squeeze:
        gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(y)
        gate = layers.Conv2D(width // 8, 1, activation="relu", name=f"{name}_excite1")(gate)
        gate = layers.Conv2D(width, 1, activation="sigmoid", name=f"{name}_excite2")(gate)
        y = layers.Multiply(name=f"{name}_scale")([y, gate])
    y = layers.Add(name=f"{name}_add")([x, y])
    return layers.Activation("relu", name=f"{name}_relu2")(y)


def _conv_norm(
    x: keras.KerasTensor, width: int, *, name: str, strides: int = 1, kernel: int = 3, gamma: str = "ones"
) -> keras.KerasTensor:
    x = layers.Conv2D(
        width, kernel, strides, "same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    return layers.BatchNormalization(
        momentum=BATCH_NORM_MOMENTUM, gamma_initializer=gamma, name=f"{name}_norm"
    )(x)
