"""One training run by a recipe: staged image sizes, a cosine schedule, averaged weights, checkpoints."""

from __future__ import annotations

import csv
import json
import math
import platform
import subprocess
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training.architectures import build
from training.augmentation import augment, resize
from training.data import Faces
from training.errors import TrainingError
from training.files import write_json
from training.losses import FaceLoss, age_error, gender_loss, smooth_age_prior
from training.recipe import Recipe
from training.splits import TRAIN, VALIDATION

RECORD_FILE = "run.json"
HISTORY_FILE = "history.csv"
BEST_FILE = "best.weights.h5"
BACKUP_FOLDER = "backup"


class Batches(keras.utils.PyDataset):
    """Batches of images (n, side, side, 3) uint8 with their labels.

    With a seed they are shuffled anew for each epoch and augmented; without one they are taken as they are.
    """

    def __init__(
        self, faces: Faces, rows: NDArray[np.int64], side: int, batch_size: int, seed: int | None = None
    ) -> None:
        super().__init__(workers=1, max_queue_size=8)
        self._faces = faces
        self._rows = rows
        self._side = side
        self._size = batch_size
        self._random = None if seed is None else np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        """Training leaves out the last, partial batch; validation does not."""
        whole = len(self._rows) // self._size
        return whole if self._random is not None else math.ceil(len(self._rows) / self._size)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.float32]]]:
        rows = self._rows[index * self._size : (index + 1) * self._size]
        crops = self._faces.crops[rows]
        if self._random is None:
            images = [resize(crop, self._side) for crop in crops]
        else:
            images = [augment(crop, self._side, self._random) for crop in crops]
        age = np.stack([self._faces.age_low[rows], self._faces.age_high[rows]], axis=1)
        male = self._faces.male[rows, None]
        return np.stack(images), {"age": age.astype(np.float32), "gender": male.astype(np.float32)}

    def on_epoch_end(self) -> None:
        """Shuffle."""
        if self._random is not None:
            self._rows = self._random.permutation(self._rows)


class Trainee(keras.Model):
    """A network and beside it the moving average of its weights, which answers outside of training."""

    def __init__(self, network: keras.Model, averaged: keras.Model) -> None:
        super().__init__()
        self.network = network
        self.averaged = averaged
        averaged.trainable = False

    def build(self, input_shape: Any) -> None:
        """Build nothing: both networks are built."""

    def call(self, images: keras.KerasTensor, training: bool = False) -> dict[str, keras.KerasTensor]:
        """Logits of (n, side, side, 3) images in 0..255."""
        images = ops.cast(images, "float32")
        answer: dict[str, keras.KerasTensor]
        answer = self.network(images, training=True) if training else self.averaged(images, training=False)
        return answer


class MovingAverage(keras.callbacks.Callback):
    """Average a trainee's weights, batch norms' statistics with them (Polyak and Juditsky 1992).

    Keras' own averaging in the optimizer leaves out the statistics.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._decay = decay

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Take up the average where it stands."""
        self._weights = self.model.averaged.get_weights()

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Move the average, faster over the first steps."""
        steps = int(self.model.optimizer.iterations)
        share = 1 - min(self._decay, steps / (steps + 10))
        for mean, new in zip(self._weights, self.model.network.get_weights(), strict=True):
            mean += share * (new - mean)

    def on_test_begin(self, *_: Any, **__: Any) -> None:
        """Hand the average over, before validation."""
        self.model.averaged.set_weights(self._weights)


def train(recipe: Recipe, faces: Faces, run: Path, initial_weights: str) -> keras.Model:
    """Train by `recipe` on the prepared `faces` and return the network with its best weights.

    A run that was stopped goes on from its last whole epoch. `initial_weights` is "imagenet", which is downloaded,
    or a file of MobileNetV2's weights. Raises TrainingError.
    """
    usable = np.isin(faces.dataset, recipe.datasets)
    rows = {split: np.flatnonzero(usable & (faces.split == split)) for split in (TRAIN, VALIDATION)}
    if len(rows[TRAIN]) < recipe.batch_size or not len(rows[VALIDATION]):
        raise TrainingError("There are fewer faces than one batch, or none to validate on: prepare more.")
    run.mkdir(parents=True, exist_ok=True)
    begin_record(recipe, faces, run)
    keras.utils.set_random_seed(recipe.seed)
    network = build(recipe.network, recipe.dropout, initial_weights)
    averaged = build(recipe.network, recipe.dropout)
    averaged.set_weights(network.get_weights())
    trainee = Trainee(network, averaged)
    trainee(np.zeros((1, recipe.side, recipe.side, 3), np.uint8))
    steps = len(rows[TRAIN]) // recipe.batch_size * recipe.epochs
    trainee.compile(
        optimizer=_optimizer(recipe, steps),
        loss={"age": FaceLoss(smooth_age_prior(faces, rows[TRAIN])), "gender": gender_loss},
        metrics={
            "age": [keras.metrics.MeanMetricWrapper(age_error, name="error")],
            "gender": [keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)],
        },
        # XLA makes TensorFlow on a CPU eight times slower; JAX is made for it.
        jit_compile=keras.backend.backend() == "jax",
    )
    history = read_history(run)
    callbacks = [
        MovingAverage(recipe.average_decay),
        keras.callbacks.CSVLogger(run / HISTORY_FILE, append=True),
        keras.callbacks.ModelCheckpoint(
            run / BEST_FILE,
            monitor="val_loss",
            save_best_only=True,
            save_weights_only=True,
            initial_value_threshold=min((entry["val_loss"] for entry in history), default=None),
        ),
        keras.callbacks.BackupAndRestore(
            run / BACKUP_FOLDER, double_checkpoint=True, delete_checkpoint=False
        ),
        keras.callbacks.TensorBoard(run / "tensorboard"),
        keras.callbacks.TerminateOnNaN(),
    ]
    validation = Batches(faces, rows[VALIDATION], recipe.side, recipe.batch_size)
    done = 0
    for number, stage in enumerate(recipe.stages):
        done += stage.epochs
        if len(history) >= done:
            continue
        trainee.fit(
            Batches(faces, rows[TRAIN], stage.side, recipe.batch_size, recipe.seed + 1000 * number),
            validation_data=validation,
            initial_epoch=done - stage.epochs,
            epochs=done,
            callbacks=callbacks,
            shuffle=False,
            verbose=2,
        )
    trainee.load_weights(run / BEST_FILE)
    return averaged


def _optimizer(recipe: Recipe, steps: int) -> keras.optimizers.Optimizer:
    warm_up = math.ceil(recipe.warm_up * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        recipe.peak_learning_rate / 100,
        decay_steps=steps - warm_up,
        warmup_target=recipe.peak_learning_rate,
        warmup_steps=warm_up,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay, clipnorm=5.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def begin_record(recipe: Recipe, faces: Faces, run: Path) -> None:
    """Write what the run is made of; raise TrainingError if another run was begun in the folder."""
    made_of = {"recipe": recipe.model_dump(mode="json"), "data_sha256": faces.digest()}
    file = run / RECORD_FILE
    if file.is_file():
        before = json.loads(file.read_text())
        if any(before[key] != value for key, value in made_of.items()):
            raise TrainingError(f"{run} holds a run of another recipe or other data: name another folder.")
        return
    write_json(
        file,
        made_of
        | {
            "commit": _commit(),
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
            "machine": f"{platform.system()}, {platform.machine()}, {cv2.getNumberOfCPUs()} cores",
        },
    )


def read_history(run: Path) -> list[dict[str, float]]:
    """The figures of each finished epoch."""
    file = run / HISTORY_FILE
    if not file.is_file():
        return []
    with file.open(newline="") as lines:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]


def _commit() -> str | None:
    """The commit of this code; None outside a repository, as in an image."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
