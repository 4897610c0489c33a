"""A stand-in for `w600k_mbf.onnx`: its names and shapes, and features that follow from the mean colour of a face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_recognizer(path: Path) -> None:
    nodes = [
        helper.make_node("AveragePool", ["input.1"], ["505"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("AveragePool", ["input.1"], ["473"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("AveragePool", ["input.1"], ["397"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["input.1"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "spread"], ["516"]),
    ]
    spread = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "recognizer",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("516", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(spread, "spread")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
