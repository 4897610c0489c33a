"""Data-parallel training: several processes, on one machine or more, each compute a part of every batch.

Keras distributes over processes on JAX alone: TensorFlow's MultiWorkerMirroredStrategy fails with Keras 3.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError

VARIABLES = tuple(f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID"))
"""Environment variables that `keras.distribution.initialize` reads."""


@dataclass(frozen=True)
class Process:
    """One of `count` processes that train together."""

    index: int
    count: int

    def part(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process' part of a batch, as large as any other's: what does not divide evenly is left out."""
        return rows[: len(rows) // self.count * self.count][self.index :: self.count]


ALONE = Process(0, 1)


def join() -> Process:
    """Connect to the other processes, and let Keras distribute over them what is built from now on.

    Raises TrainingError if Keras does not run on JAX, or an environment variable is missing.
    """
    if keras.backend.backend() != "jax":
        raise TrainingError("Only JAX trains over several processes: set KERAS_BACKEND=jax.")
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise TrainingError(f"Set {', '.join(missing)} for --distributed: see docs/training.md.")
    keras.distribution.initialize()
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    count, index = (int(os.environ[name]) for name in VARIABLES[1:])
    return Process(index, count)
