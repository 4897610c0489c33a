"""YuNet's published file as the network that is run: for images of any size, and with its heads joined.

What is told of a cell (two confidences, a box, landmarks) comes from a head each: a convolution across channels and one
within them, to 1, 1, 4 and 10 channels. All heads of a stride read the same 64 channels, and ONNX Runtime takes as long
for one channel as for 16: joined to one they tell the same, and the whole network takes a seventh less time.

ONNX files are protocol buffers, messages of fields, each a number and a value
(https://protobuf.dev/programming-guides/encoding/; the numbers are those of onnx.proto).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

STRIDES = (8, 16, 32)
"""Pixels a side of the cells of each output."""

# What the heads tell of a cell, in the order in which they are joined: 1, 1, 4 and 10 channels.
_HEADS = ("cls", "obj", "bbox", "kps")
_CHANNELS = 16
# What the heads of each stride read, by the file's names.
_READ = ("256", "246", "236")

_GRAPH = 7  # of a model
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12  # of a graph


def with_joined_heads(published: bytes) -> bytes:
    """The published file (detector_file.py), changed: one output (1, 16, rows, columns) for each of `STRIDES`.

    Channels are the logits of two confidences, four numbers of a box and ten of landmarks. The published network has
    twelve outputs, confidences in place of logits, and takes 640 x 640 only, by its own word: nothing depends on it.
    """
    model = list(_fields(published))
    (graph,) = (list(_fields(value)) for number, _, value in model if number == _GRAPH)
    nodes = (whole for number, whole, _ in graph if number == _NODE)
    body = takewhile(lambda node: b"bbox_head" not in node, nodes)
    weights = (whole for number, whole, _ in graph if number == _INITIALIZER)
    heads = (_joined(level, read) for level, read in enumerate(_READ))
    others = b"".join(whole for number, whole, _ in model if number != _GRAPH)
    return others + _field(_GRAPH, b"".join([_tensor(_INPUT, "input"), *body, *weights, *heads]))


def _joined(level: int, read: str) -> bytes:
    """All heads of one stride as one, and its output."""
    joins, names = [], []
    for layer in ("conv1", "conv2"):
        for part in ("weight", "bias"):
            names.append(f"{level}.{layer}.{part}")
            parts = [f"bbox_head.multi_level_{head}.{level}.{layer}.{part}" for head in _HEADS]
            joins.append(_node("Concat", parts, names[-1], _attribute("axis", 0)))
    across, told = f"{level}.across", f"{level}.told"
    by_channel = _attribute("group", _CHANNELS) + _attribute("pads", [1] * 4)
    within = _node("Conv", [across, *names[2:]], told, by_channel)
    return b"".join([*joins, _node("Conv", [read, *names[:2]], across), within, _tensor(_OUTPUT, told)])


def _node(operator: str, inputs: list[str], output: str, attributes: bytes = b"") -> bytes:
    names = b"".join(_field(1, name.encode()) for name in inputs)
    return _field(_NODE, names + _field(2, output.encode()) + _field(4, operator.encode()) + attributes)


def _attribute(name: str, value: int | list[int]) -> bytes:
    if isinstance(value, int):
        return _field(5, _field(1, name.encode()) + _field(3, value) + _field(20, 2))
    return _field(5, _field(1, name.encode()) + b"".join(_field(8, each) for each in value) + _field(20, 7))


def _tensor(number: int, name: str) -> bytes:
    """Of 32-bit floats, in four dimensions of any size."""
    shape = _field(1, b"") * 4
    return _field(number, _field(1, name.encode()) + _field(2, _field(1, _field(1, 1) + _field(2, shape))))


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, all bytes, and those of the value, of each field; whole numbers and bytes are all that occur."""
    end = 0
    while end < len(message):
        begin = end
        tag, end = _read_varint(message, end)
        length, start = _read_varint(message, end)
        end = start + length if tag & 7 == 2 else start
        yield tag >> 3, message[begin:end], message[start:end]


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; all bytes but the last have the eighth."""
    sevens = [value >> shift & 0x7F for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([*(seven | 0x80 for seven in sevens[:-1]), sevens[-1]])


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """A whole number, and where it ends."""
    value = shift = 0
    while True:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 0x80:
            return value, at
