"""Models of a few hundred bytes that keep the service's contract, or break it in one place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx.parser

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
    # -(k - a)**2 / 8 = k * a / 4 - k**2 / 8 + something that is the same for all k
    slope = [k * 100 / 255 / 4 for k in range(ages)]
    offset = [-(k**2) / 8 for k in range(ages)]
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 13]>
        tiny (uint8[{batch}, {side}, {side}, 3] image)
            => (float[{batch}, {ages}] {age}, float[{batch}{"" if flat_gender else ", 1"}] gender)
            <float[3] channels = {_numbers(channels)}, float[1] middle = {{127.5}},
             float[{ages}] slope = {_numbers(slope)}, float[{ages}] offset = {_numbers(offset)}>
        {{
            pixels = Cast <to = 1> (image)
            weighed = Mul (pixels, channels)
            mean = ReduceMean <axes = [1, 2, 3]> (weighed)
            brightness = Flatten (mean)
            tilted = Mul (brightness, slope)
            logits = Add (tilted, offset)
            {age} = {"Softmax" if probabilities else "Identity"} (logits)
            gender_logit = Sub (brightness, middle)
            gender_column = Sigmoid (gender_logit)
            gender = {"ReduceMean <axes = [1], keepdims = 0>" if flat_gender else "Identity"} (gender_column)
        }}""")
    encoded: bytes = model.SerializeToString()
    return encoded


def _numbers(values: Sequence[float]) -> str:
    return f"{{{', '.join(map(str, values))}}}"


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
