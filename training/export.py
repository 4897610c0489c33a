"""A trained network to what is served: `.keras` and `.onnx`, held together by a check on real crops."""

from __future__ import annotations

import hashlib
from pathlib import Path

import keras
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from app.inference.session import OnnxSession
from training.architectures import with_probabilities
from training.calibrate import Calibration

MAX_DIFFERENCE = 1e-3
"""Largest difference between Keras' and ONNX Runtime's probabilities on real crops."""

# Smaller tensors stay as they are: 16 bits would save next to nothing.
_HALF_FROM = 256


class ExportRefused(Exception):
    """The exported file does not do what the network does."""


def export(
    network: keras.Model, calibration: Calibration, folder: Path, model_id: str, crops: NDArray[np.uint8]
) -> tuple[float, str]:
    """Write `ID.keras` and `ID.onnx` into `folder`.

    Returns the largest difference between their probabilities on `crops` (n, 128, 128, 3) and the SHA-256 of the
    ONNX file. Raises ExportRefused, and leaves no ONNX file, where the difference exceeds `MAX_DIFFERENCE`.
    """
    # Weights are kept in 16 bits, so both files get what 16 bits can say.
    network.set_weights([weight.astype(np.float16).astype(np.float32) for weight in network.get_weights()])
    model = with_probabilities(network, calibration.gender_temperature)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / f"{model_id}.keras")
    expected = model.predict(crops, batch_size=64, verbose=0)  # also what Keras wants to have seen before an export

    partial = folder / f"partial.{model_id}.onnx.tmp"
    try:
        model.export(partial, format="onnx", verbose=False)
        proto = onnx.load(partial)
        _name_dimensions(proto)
        _halve_weights(proto)
        onnx.checker.check_model(proto)
        onnx.save(proto, partial)
        age, gender = OnnxSession(partial).run(crops)
        difference = max(float(np.abs(age - expected["age"]).max()), float(np.abs(gender - expected["gender"]).max()))
        if not difference <= MAX_DIFFERENCE:
            raise ExportRefused(
                f"ONNX Runtime and Keras differ by {difference:.2g} on real crops, more than {MAX_DIFFERENCE:g}: "
                "nothing was exported"
            )
        partial.replace(folder / f"{model_id}.onnx")
    finally:
        partial.unlink(missing_ok=True)
    return difference, hashlib.sha256((folder / f"{model_id}.onnx").read_bytes()).hexdigest()


def _name_dimensions(proto: onnx.ModelProto) -> None:
    """The batch is called n, instead of an arbitrary name."""
    for tensor in (*proto.graph.input, *proto.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "n"
    del proto.graph.value_info[:]


def _halve_weights(proto: onnx.ModelProto) -> None:
    """Store large weights as 16-bit floats; the casts back are folded away when a session is made."""
    casts = []
    for tensor in list(proto.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _HALF_FROM:
            continue
        half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{tensor.name}_half")
        proto.graph.initializer.remove(tensor)
        proto.graph.initializer.append(half)
        casts.append(helper.make_node("Cast", [half.name], [tensor.name], f"{tensor.name}_cast", to=TensorProto.FLOAT))
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(casts + nodes)
