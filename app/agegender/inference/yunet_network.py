"""YuNet's published file as the network that is run: for images of any size, and with its heads joined.

In the file each stride has four heads of two convolutions: for two confidences, a box and landmarks, which are 1, 1, 4
and 10 channels. ONNX Runtime takes as long for one channel as for 16, so one head of 16 channels in place of the four
makes the whole network a tenth faster.

An ONNX file is a protocol buffer, a sequence of fields (https://protobuf.dev/programming-guides/encoding/); the numbers
of fields below are those of onnx.proto.
"""

from __future__ import annotations

# Where the published file, which is always the same (detector_file.py), has its graph, and where that has the nodes
# before the heads and all weights.
_GRAPH = slice(16, 232_583)
_BODY = slice(20, 5_907)
_WEIGHTS = slice(12_217, 229_245)

_HEADS = ("cls", "obj", "bbox", "kps")
_CHANNELS = 16
# Where the body ends: what the heads of strides 8, 16 and 32 read.
_FEATURES = ("256", "246", "236")


def with_joined_heads(published: bytes) -> bytes:
    """The network with two outputs for the n cells of all strides: confidences (2, n), box and landmarks (14, n)."""
    nodes = [_head(level, features) for level, features in enumerate(_FEATURES)]
    nodes += [
        _node("Concat", [f"{level}.cells" for level in range(len(_FEATURES))], ["cells"], axis=1),
        _node("Split", ["cells"], ["logits", "places"], axis=0, split=[2, 14]),
        _node("Sigmoid", ["logits"], ["confidences"]),
    ]
    tensors = [_tensor(11, "input", 4), _tensor(12, "confidences", 2), _tensor(12, "places", 2)]
    graph = [published[_BODY], *nodes, published[_WEIGHTS], *tensors]
    return published[: _GRAPH.start] + _field(7, b"".join(graph)) + published[_GRAPH.stop :]


def _head(level: int, features: str) -> bytes:
    """The nodes that join the heads of one stride: the runtime joins the weights once, when it loads the network."""
    weights = [f"conv{layer}.{part}" for layer in (1, 2) for part in ("weight", "bias")]
    joined = [f"{level}.{name}" for name in weights]
    nodes = [
        _node("Concat", [f"bbox_head.multi_level_{head}.{level}.{name}" for head in _HEADS], [whole], axis=0)
        for name, whole in zip(weights, joined, strict=True)
    ]
    nodes += [
        _node("Conv", [features, *joined[:2]], [f"{level}.across"]),
        _node("Conv", [f"{level}.across", *joined[2:]], [f"{level}.within"], group=_CHANNELS, pads=[1] * 4),
        _node("Flatten", [f"{level}.within"], [f"{level}.cells"], axis=2),
    ]
    return b"".join(nodes)


def _node(operator: str, inputs: list[str], outputs: list[str], **attributes: int | list[int]) -> bytes:
    names = [*((1, name) for name in inputs), *((2, name) for name in outputs), (4, operator)]
    fields = [_field(number, name.encode()) for number, name in names]
    for name, value in attributes.items():
        if isinstance(value, int):
            numbers = [_field(3, value), _field(20, 2)]
        else:
            numbers = [*(_field(8, each) for each in value), _field(20, 7)]
        fields.append(_field(5, b"".join([_field(1, name.encode()), *numbers])))
    return _field(1, b"".join(fields))


def _tensor(number: int, name: str, dimensions: int) -> bytes:
    """An input or an output of 32-bit floats, of any size in each dimension."""
    shape = _field(1, b"") * dimensions
    return _field(number, _field(1, name.encode()) + _field(2, _field(1, _field(1, 1) + _field(2, shape))))


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; all bytes but the last have the eighth bit set."""
    if value < 128:
        return bytes([value])
    return bytes([value & 127 | 128]) + _varint(value >> 7)
