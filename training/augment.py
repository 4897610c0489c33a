"""Augmentation as one Keras layer: geometry in a single warp, then colour, blur, noise and erasing."""

from __future__ import annotations

import math

import keras
from agegender.vision.align import CROP_SIZE
from keras import ops

# The scatter of YuNet's and Haar's frames against UTKFace's own (5th to 95th percentile over chips and FairFace:
# scale 0.86-1.12, rotation 5.5 degrees, shift 5 % of the side), and a little more.
MAX_ROTATION = math.radians(10)
SCALE_RANGE = (0.85, 1.15)
MAX_SHIFT = 0.07

BRIGHTNESS = 0.25
CONTRAST = 0.3
SATURATION = 0.4
GREY_SHARE = 0.05
BLURRED_SHARE = 0.1
NOISY_SHARE = 0.1
MAX_NOISE = 10.0
"""Standard deviation, of 255."""

ERASED_SHARE = 0.25
ERASED_SIDE = (0.15, 0.4)
MEAN_PIXEL = 127.5


class Augment(keras.layers.Layer):
    """(n, 128, 128, 3) RGB crops in 0..255 to altered ones of (n, `size`, `size`, 3), float32.

    `size` may be changed between epochs; what was traced before must then be traced anew.
    """

    def __init__(self, size: int = CROP_SIZE, seed: int = 0) -> None:
        super().__init__()
        self.size = size
        self._random = keras.random.SeedGenerator(seed)

    def _uniform(self, n: int, low: float, high: float) -> keras.KerasTensor:
        return keras.random.uniform((n, 1, 1, 1), low, high, seed=self._random)

    def call(self, crops: keras.KerasTensor) -> keras.KerasTensor:
        """See the class."""
        return self.spoil(self.alter(crops))

    def alter(self, crops: keras.KerasTensor) -> keras.KerasTensor:
        """Another photograph of the same face, (n, 128, 128, 3): what its teacher may see of it."""
        n = ops.shape(crops)[0]
        return self._recolour(self._warp(ops.cast(crops, "float32"), n), n)

    def spoil(self, images: keras.KerasTensor) -> keras.KerasTensor:
        """A worse copy of it, (n, `size`, `size`, 3)."""
        n = ops.shape(images)[0]
        images = self._noise(self._blur(images, n), n)
        if self.size != CROP_SIZE:
            images = ops.image.resize(images, (self.size, self.size), interpolation="bilinear")
        return self._erase(images, n)

    def _warp(self, images: keras.KerasTensor, n: int) -> keras.KerasTensor:
        angle = self._uniform(n, -MAX_ROTATION, MAX_ROTATION)[:, 0, 0, 0]
        low, high = SCALE_RANGE
        scale = 1.0 / self._uniform(n, low, high)[:, 0, 0, 0]
        side = ops.where(self._uniform(n, 0, 1)[:, 0, 0, 0] < 0.5, -1.0, 1.0)  # -1 mirrors
        shift = MAX_SHIFT * CROP_SIZE
        shift_x = self._uniform(n, -shift, shift)[:, 0, 0, 0]
        shift_y = self._uniform(n, -shift, shift)[:, 0, 0, 0]
        # From output pixels back to input pixels, about the centre.
        centre = (CROP_SIZE - 1) / 2
        a, b = ops.cos(angle) * scale * side, -ops.sin(angle) * scale
        c, d = ops.sin(angle) * scale * side, ops.cos(angle) * scale
        zero = ops.zeros_like(a)
        transform = ops.stack(
            [
                a, b, centre - a * centre - b * centre + shift_x,
                c, d, centre - c * centre - d * centre + shift_y,
                zero, zero,
            ],
            axis=-1,
        )  # fmt: skip
        return ops.image.affine_transform(images, transform, interpolation="bilinear", fill_mode="constant")

    def _recolour(self, images: keras.KerasTensor, n: int) -> keras.KerasTensor:
        grey = ops.mean(images, axis=-1, keepdims=True)
        saturation = self._uniform(n, 1 - SATURATION, 1 + SATURATION)
        saturation = ops.where(self._uniform(n, 0, 1) < GREY_SHARE, 0.0, saturation)
        images = grey + (images - grey) * saturation
        mean = ops.mean(grey, axis=(1, 2), keepdims=True)
        images = mean + (images - mean) * self._uniform(n, 1 - CONTRAST, 1 + CONTRAST)
        return ops.clip(images * self._uniform(n, 1 - BRIGHTNESS, 1 + BRIGHTNESS), 0.0, 255.0)

    def _blur(self, images: keras.KerasTensor, n: int) -> keras.KerasTensor:
        half = ops.image.resize(
            images, (CROP_SIZE // 2, CROP_SIZE // 2), interpolation="bilinear", antialias=True
        )
        blurred = ops.image.resize(half, (CROP_SIZE, CROP_SIZE), interpolation="bilinear")
        return ops.where(self._uniform(n, 0, 1) < BLURRED_SHARE, blurred, images)

    def _noise(self, images: keras.KerasTensor, n: int) -> keras.KerasTensor:
        deviation = self._uniform(n, 0, MAX_NOISE)
        deviation = ops.where(self._uniform(n, 0, 1) < NOISY_SHARE, deviation, 0.0)
        noise = keras.random.normal(ops.shape(images), seed=self._random)
        return ops.clip(images + deviation * noise, 0.0, 255.0)

    def _erase(self, images: keras.KerasTensor, n: int) -> keras.KerasTensor:
        """Random erasing (Zhong et al. 2020): a grey rectangle in some of the images."""
        axis = (ops.arange(self.size, dtype="float32") + 0.5) / self.size
        low, high = ERASED_SIDE
        half_height, half_width = self._uniform(n, low, high) / 2, self._uniform(n, low, high) / 2
        below = ops.abs(axis[None, :, None, None] - self._uniform(n, 0, 1)) < half_height
        beside = ops.abs(axis[None, None, :, None] - self._uniform(n, 0, 1)) < half_width
        chosen = self._uniform(n, 0, 1) < ERASED_SHARE
        erased = ops.logical_and(ops.logical_and(below, beside), chosen)
        return ops.where(erased, MEAN_PIXEL, images)
