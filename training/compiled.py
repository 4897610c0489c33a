"""The networks as functions of plain PyTorch, which `torch.compile` makes twice as fast as TensorFlow on a CPU.

It cannot follow Keras' own layers. The functions share the variables of the Keras network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import torch
from keras import layers
from torch.nn import functional

# Where the processor has instructions for 16 bits, products of matrices are two to eight times faster than in 32;
# elsewhere they are slower.
DTYPE = torch.bfloat16 if torch.cpu.get_capabilities().get("avx512_bf16") else torch.float32

_ACTIVATIONS: dict[Any, Callable[[torch.Tensor], torch.Tensor]] = {
    keras.activations.linear: lambda x: x,
    keras.activations.relu: torch.relu,
    keras.activations.sigmoid: torch.sigmoid,
}


def compiled(network: keras.Model, *, training: bool) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """`network` as a function from images (n, side, side, 3) in 0..255 to its outputs, in 32 bits.

    Frozen batch norms keep their statistics in training, too, as in Keras. Raises NotImplementedError for a layer that
    neither of the networks has.
    """
    steps = []
    for layer in network.layers[1:]:
        sources = layer.input if isinstance(layer.input, list) else [layer.input]
        steps.append((_function(layer, training), [id(source) for source in sources], id(layer.output)))
    first = id(network.inputs[0])
    outputs = {name: id(tensor) for name, tensor in network.output.items()}

    def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
        values = {first: images}
        for function, sources, output in steps:
            values[output] = function(*(values[source] for source in sources))
        return {name: values[output] for name, output in outputs.items()}

    function: Callable[[torch.Tensor], dict[str, torch.Tensor]] = torch.compile(run, dynamic=False)
    return function


def _function(layer: keras.Layer, training: bool) -> Callable[..., torch.Tensor]:
    match layer:
        case layers.Rescaling():
            scale, offset = layer.scale, layer.offset
            return lambda x: (x * scale + offset).to(DTYPE)
        case layers.ZeroPadding2D():
            (top, bottom), (left, right) = layer.padding
            return lambda x: functional.pad(x, (0, 0, left, right, top, bottom))
        case layers.DepthwiseConv2D():
            return _depthwise(layer)
        case layers.Conv2D():
            return _convolution(layer)
        case layers.BatchNormalization():
            return _batch_norm(layer, training and layer.trainable)
        case layers.ReLU():
            highest = layer.max_value
            return lambda x: x.clamp(0, highest)
        case layers.Activation():
            return _ACTIVATIONS[layer.activation]
        case layers.Add():
            return lambda x, y: x + y
        case layers.Multiply():
            return lambda x, y: x * y
        case layers.GlobalAveragePooling2D():
            keepdims = layer.keepdims
            return lambda x: x.float().mean((1, 2), keepdim=keepdims).to(DTYPE)
        case layers.Dropout():
            rate = layer.rate
            return lambda x: functional.dropout(x, rate, training)
        case layers.Dense():
            kernel, bias = layer.kernel.value, layer.bias.value
            return lambda x: x.float() @ kernel + bias
    raise NotImplementedError(f"{layer.name} is a {type(layer).__name__}")


def _convolution(layer: layers.Conv2D) -> Callable[[torch.Tensor], torch.Tensor]:
    kernel, bias = layer.kernel.value, layer.bias.value if layer.use_bias else None
    side, stride, padding = layer.kernel_size[0], layer.strides[0], layer.padding
    activation = _ACTIVATIONS[layer.activation]

    def convolve(x: torch.Tensor) -> torch.Tensor:
        if side == 1:
            y = x @ kernel[0, 0].to(DTYPE)
        else:
            channels_first = _pad(x, side, stride, padding).permute(0, 3, 1, 2)
            weights = kernel.to(DTYPE).permute(3, 2, 0, 1)
            y = functional.conv2d(channels_first, weights, stride=stride).permute(0, 2, 3, 1)
        return activation(y if bias is None else y + bias.to(DTYPE))

    return convolve


def _depthwise(layer: layers.DepthwiseConv2D) -> Callable[[torch.Tensor], torch.Tensor]:
    """As a sum of products, which is compiled into one loop with what comes before and after it."""
    kernel, side, stride, padding = layer.kernel.value, layer.kernel_size[0], layer.strides[0], layer.padding

    def convolve(x: torch.Tensor) -> torch.Tensor:
        x = _pad(x, side, stride, padding)
        height, width = ((n - side) // stride * stride + 1 for n in x.shape[1:3])
        weights = kernel[..., 0].to(DTYPE)
        products = [
            x[:, i : i + height : stride, j : j + width : stride] * weights[i, j]
            for i in range(side)
            for j in range(side)
        ]
        return sum(products[1:], products[0])

    return convolve


def _pad(x: torch.Tensor, side: int, stride: int, padding: str) -> torch.Tensor:
    if padding == "valid":
        return x
    ends: list[int] = []
    for n in (x.shape[2], x.shape[1]):
        more = max(0, (-(-n // stride) - 1) * stride + side - n)
        ends += [more // 2, more - more // 2]
    return functional.pad(x, (0, 0, *ends))


def _batch_norm(layer: layers.BatchNormalization, training: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    variables = layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance
    gamma, beta, moving_mean, moving_variance = (variable.value for variable in variables)
    momentum, epsilon = layer.momentum, layer.epsilon

    def normalize(x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        mean, variance = moving_mean, moving_variance
        if training:
            mean = wide.mean((0, 1, 2))
            variance = wide.square().mean((0, 1, 2)) - mean.square()
            with torch.no_grad():
                moving_mean.lerp_(mean, 1 - momentum)
                moving_variance.lerp_(variance, 1 - momentum)
        scale = gamma * torch.rsqrt(variance + epsilon)
        return (wide * scale + (beta - mean * scale)).to(DTYPE)

    return normalize
