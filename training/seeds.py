"""Random streams that begin anew, so that what is drawn after a kill is what would have been drawn."""

from __future__ import annotations

from collections.abc import Iterable

import keras
import numpy as np


def reseed(variables: Iterable[keras.Variable], seed: int, part: int) -> None:
    """Begin each random stream among a model's `variables`, augmentation's and dropout's, anew for `part` of a run.

    What is drawn follows from seed and part alone.
    """
    streams = [variable for variable in variables if variable.name == "seed_generator_state"]
    seeds = np.random.SeedSequence((seed, part)).generate_state(len(streams))
    for stream, start in zip(streams, seeds, strict=True):
        stream.assign([int(start) >> 1, 0])  # PyTorch keeps them in 32 signed bits
