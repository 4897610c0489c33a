"""Split faces by a stable hash of their names, with near-duplicates always in the same split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

TRAIN, VALIDATION, TEST = "train", "validation", "test"

# Of the 255 bits, pairs of the same photograph seldom differ in more than 45 and pairs of different ones in fewer than
# 48: the histogram of distances over UTKFace is all but empty between the two, and so is that to mirrored pictures.
NEAR_DUPLICATE_BITS = 45


def perceptual_hashes(crop: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Signs of the 255 lowest DCT coefficients against their median, of a crop and its mirror image: (2, 4) uint64."""
    grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    both = []
    for picture in (grey, grey[:, ::-1]):
        low = np.asarray(cv2.dct(picture.astype(np.float32)))[:16, :16].ravel()[1:]
        both.append(np.packbits(np.append(low > np.median(low), False)).view(np.uint64))
    return np.stack(both)


def group_near_duplicates(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each of (n, 2, 4) hashes the index of the first member of its group; groups are closed under nearness."""
    parent = np.arange(len(hashes))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    block = 256
    for start in range(0, len(hashes), block):
        # Each block against itself and what follows: every pair once.
        rows, columns = hashes[start : start + block].swapaxes(0, 1), hashes[start:, 0]
        distance = np.zeros((*rows.shape[:2], len(columns)), np.uint16)
        for word in range(hashes.shape[2]):
            distance += np.bitwise_count(rows[:, :, None, word] ^ columns[:, word])
        for a, b in np.argwhere(distance.min(axis=0) <= NEAR_DUPLICATE_BITS):
            first, second = sorted((root(start + int(a)), root(start + int(b))))
            parent[second] = first
    return np.array([root(i) for i in range(len(hashes))])


def split_of(name: str) -> str:
    """80 % train, 10 % validation, 10 % test, by the SHA-256 of a group's name."""
    tenth = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 10
    return {0: TEST, 1: VALIDATION}.get(tenth, TRAIN)


def assign_splits(names: Sequence[str], hashes: NDArray[np.uint64]) -> NDArray[np.str_]:
    """The split of each image; that of a group follows from the alphabetically first name in it."""
    order = np.argsort(np.array(names))
    groups = group_near_duplicates(hashes[order])
    splits = np.empty(len(names), "U10")
    splits[order] = [split_of(names[order[group]]) for group in groups]
    return splits
