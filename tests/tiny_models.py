"""Models of a few hundred bytes that keep the service's contract, or break it in one place.

ONNX files are protocol buffers; the little of their encoding that is needed here is written out, because the
service's tests run without the `onnx` package. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

FLOAT, UINT8 = 1, 2

_FACTORS = [[0.526], [1.0], [1.283], [1.529], [2.01]]
NORMAL_INTERVAL = {
    "coverage": [0.5, 0.8, 0.9, 0.95, 0.99],
    "age": [0],
    "low": _FACTORS,
    "high": _FACTORS,
    "usual_width": [5.1],
}
"""What needs no calibration: the quantiles of a normal distribution, as multiples of its 10 % and 90 % ones."""


def tiny_onnx(
    *,
    batch: str | int = "n",
    side: int = 128,
    age: str = "age",
    ages: int = 101,
    probabilities: bool = True,
    flat_gender: bool = True,
    channels: tuple[float, float, float] = (1, 1, 1),
) -> bytes:
    """A model to which a crop of mean brightness b (0..255) is of age about b * 100 / 255, and male if b > 127.5.

    `channels` weigh red, green and blue in b. The logit of age k is -(k - a)**2 / 8, up to a constant, with
    a = b * 100 / 255: a bell of 2 years about a.
    """
    scale = 100 / 255
    # -(k - a)**2 / 8 = k * a / 4 - k**2 / 8 + something that is the same for all k
    slope = [k * scale / 4 for k in range(ages)]
    offset = [-(k**2) / 8 for k in range(ages)]
    nodes = [
        _node("Cast", ["image"], ["pixels"], _int_attribute("to", FLOAT)),
        _node("Mul", ["pixels", "channels"], ["weighed"]),
        _node("ReduceMean", ["weighed"], ["mean"], _ints_attribute("axes", [1, 2, 3])),
        _node("Flatten", ["mean"], ["brightness"]),
        _node("Mul", ["brightness", "slope"], ["tilted"]),
        _node("Add", ["tilted", "offset"], ["logits"]),
        _node("Softmax" if probabilities else "Identity", ["logits"], [age]),
        _node("Sub", ["brightness", "middle"], ["gender_logit"]),
        _node("Sigmoid", ["gender_logit"], ["gender_column"]),
        _node(
            *(
                (
                    "ReduceMean",
                    ["gender_column"],
                    ["gender"],
                    _ints_attribute("axes", [1]),
                    _int_attribute("keepdims", 0),
                )
                if flat_gender
                else ("Identity", ["gender_column"], ["gender"])
            )
        ),
    ]
    constants = [
        _constant("channels", list(channels)),
        _constant("slope", slope),
        _constant("offset", offset),
        _constant("middle", [127.5]),
    ]
    graph = b"".join(
        [_field(1, node) for node in nodes]
        + [_field(2, b"tiny")]
        + [_field(5, constant) for constant in constants]
        + [_field(11, _tensor_info("image", UINT8, [batch, side, side, 3]))]
        + [_field(12, _tensor_info(age, FLOAT, [batch, ages]))]
        + [_field(12, _tensor_info("gender", FLOAT, [batch] if flat_gender else [batch, 1]))]
    )
    opset = _field(1, b"") + _number(2, 13)
    return _number(1, 8) + _field(7, graph) + _field(8, opset)


def metadata(model_id: str, model: bytes, **changes: Any) -> dict[str, Any]:
    """What ID.json holds for the file `model`, with `changes`."""
    return {
        "id": model_id,
        "title": "Tiny",
        "architecture": "brightness",
        "description": "Tells age by brightness.",
        "input_size": 128,
        "parameters": 206,
        "sha256": hashlib.sha256(model).hexdigest(),
        "trained_on": "nothing",
        "licence": "Apache-2.0",
        "created": "2026-01-02T03:04:05Z",
        "metrics": {"age_mae": 4.2, "age_cs5": 0.7, "gender_accuracy": 0.94, "n": 2100},
        "age_interval": NORMAL_INTERVAL,
        **changes,
    }


def put_model(folder: Path, model_id: str = "tiny", model: bytes | None = None, **changes: Any) -> None:
    """Write ID.onnx and ID.json, with `changes` to the metadata, into `folder`."""
    model = tiny_onnx() if model is None else model
    (folder / f"{model_id}.onnx").write_bytes(model)
    (folder / f"{model_id}.json").write_text(json.dumps(metadata(model_id, model, **changes)))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _node(operator: str, inputs: list[str], outputs: list[str], *attributes: bytes) -> bytes:
    return b"".join(
        [_field(1, name.encode()) for name in inputs]
        + [_field(2, name.encode()) for name in outputs]
        + [_field(4, operator.encode())]
        + [_field(5, attribute) for attribute in attributes]
    )


def _int_attribute(name: str, value: int) -> bytes:
    return _field(1, name.encode()) + _number(3, value) + _number(20, 2)


def _ints_attribute(name: str, values: list[int]) -> bytes:
    return _field(1, name.encode()) + b"".join(_number(8, value) for value in values) + _number(20, 7)


def _constant(name: str, values: list[float]) -> bytes:
    data = struct.pack(f"<{len(values)}f", *values)
    return _number(1, len(values)) + _number(2, FLOAT) + _field(8, name.encode()) + _field(9, data)


def _tensor_info(name: str, element: int, shape: list[str | int]) -> bytes:
    dimensions = b"".join(
        _field(1, _number(1, size) if isinstance(size, int) else _field(2, size.encode())) for size in shape
    )
    return _field(1, name.encode()) + _field(2, _field(1, _number(1, element) + _field(2, dimensions)))
