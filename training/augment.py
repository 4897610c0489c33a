"""Augmentation of one crop: geometry in a single warp, then colour, blur, noise and erasing."""

from __future__ import annotations

import math

import cv2
import numpy as np
from agegender.vision.align import CROP_SIZE
from numpy.typing import NDArray

# The scatter of YuNet's and Haar's frames against UTKFace's own (5th to 95th percentile over chips and FairFace:
# scale 0.86-1.12, rotation 5.5 degrees, shift 5 % of the side), and a little more.
MAX_ROTATION = math.radians(10)
SCALE_RANGE = (0.85, 1.15)
MAX_SHIFT = 0.07  # of the side

BRIGHTNESS = 0.25
CONTRAST = 0.3
SATURATION = 0.4
GREY_SHARE = 0.05
BLURRED_SHARE = 0.1
NOISY_SHARE = 0.1
MAX_NOISE = 10.0  # standard deviation, of 255
ERASED_SHARE = 0.25
ERASED_SIDE = (0.15, 0.4)
MEAN_PIXEL = 127

Image = NDArray[np.uint8]


def alter(crop: Image, side: int, random: np.random.Generator) -> Image:
    """Change geometry and colour of a (128, 128, 3) crop as another photograph would; return (`side`, `side`, 3)."""
    return _recolour(_warp(crop, side, random), random)


def spoil(image: Image, random: np.random.Generator) -> Image:
    """Degrade an image (side, side, 3) by blur, noise and a grey rectangle, each with some probability."""
    side = len(image)
    if random.random() < BLURRED_SHARE:
        half = cv2.resize(image, (side // 2, side // 2), interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.resize(half, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)
    if random.random() < NOISY_SHARE:
        noise = random.normal(0, random.uniform(0, MAX_NOISE), image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if random.random() < ERASED_SHARE:  # Zhong et al. 2020
        height, width = (side * random.uniform(*ERASED_SIDE, 2) / 2).astype(int)
        y, x = random.integers(0, side, 2)
        image[max(0, y - height) : y + height, max(0, x - width) : x + width] = MEAN_PIXEL
    return image


def resize(crop: Image, side: int) -> Image:
    """A (128, 128, 3) crop at (`side`, `side`, 3), otherwise as it is."""
    if side == CROP_SIZE:
        return crop
    return np.asarray(cv2.resize(crop, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)


def _warp(crop: Image, side: int, random: np.random.Generator) -> Image:
    """Rotate, scale, shift and, with probability 1/2, mirror about the centre; black beyond the crop."""
    angle = random.uniform(-MAX_ROTATION, MAX_ROTATION)
    scale = random.uniform(*SCALE_RANGE) * side / CROP_SIZE
    mirror = random.choice((-1, 1))
    linear = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear[:, 0] *= mirror
    shift = random.uniform(-MAX_SHIFT, MAX_SHIFT, 2) * side
    centre = np.full(2, (side - 1) / 2) + shift - linear @ np.full(2, (CROP_SIZE - 1) / 2)
    matrix = np.column_stack([linear, centre])
    return np.asarray(cv2.warpAffine(crop, matrix, (side, side), flags=cv2.INTER_LINEAR), np.uint8)


def _recolour(image: Image, random: np.random.Generator) -> Image:
    """Change saturation, contrast and brightness: one linear map of each pixel's colour."""
    saturation = 0.0 if random.random() < GREY_SHARE else random.uniform(1 - SATURATION, 1 + SATURATION)
    contrast = random.uniform(1 - CONTRAST, 1 + CONTRAST)
    brightness = random.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS)
    grey = np.full((3, 3), 1 / 3)
    colours = brightness * contrast * (grey + saturation * (np.eye(3) - grey))
    offset = np.full(3, brightness * (1 - contrast) * image.mean())
    return np.asarray(cv2.transform(image, np.column_stack([colours, offset])), np.uint8)
