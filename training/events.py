"""A run's history as TensorBoard reads it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path


class Events:
    """Scalars by epoch in `folder`, which holds those of `history` alone to begin with."""

    def __init__(self, folder: Path, history: Iterable[dict[str, float]]) -> None:
        import tensorflow as tf  # whose files these are; Keras may well run on another backend

        shutil.rmtree(folder, ignore_errors=True)
        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(str(folder))
        for entry in history:
            self.write(entry)

    def write(self, entry: dict[str, float]) -> None:
        """Add what the history keeps of an epoch."""
        with self._writer.as_default(step=int(entry["epoch"])):
            for name in entry.keys() - {"epoch"}:
                self._summary.scalar(name, entry[name])
        self._writer.flush()
