"""One training run by a recipe: staged image sizes, a cosine schedule, averaged weights, checkpoints."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training.augment import alter, resize, spoil
from training.data import UTKFACE, Faces
from training.distributed import ALONE, Process
from training.errors import TrainingError
from training.files import write_json
from training.losses import AgeLoss, age_error, smooth_age_prior
from training.networks import begin, build, freeze
from training.recipe import Recipe, Teacher
from training.splits import TRAIN, VALIDATION
from training.teacher import Answers, ask, view

RECORD_FILE = "run.json"
HISTORY_FILE = "history.csv"
BEST_FILE = "best.weights.h5"

# Of a run that goes on: neither changes what was trained until then.
_CHANGEABLE = {"stages": None, "share_of_first_weights": None}


class Batches(keras.utils.PyDataset):
    """Batches of images (n, side, side, 3) uint8 with their labels and, with a teacher, its features and answers.

    With a seed they are shuffled for each epoch and augmented. Of each batch, only the part of `process` is made.
    """

    def __init__(
        self,
        faces: Faces,
        rows: NDArray[np.int64],
        side: int,
        batch_size: int,
        seed: int | None = None,
        teacher: tuple[Teacher, Answers] | None = None,
        process: Process = ALONE,
    ) -> None:
        super().__init__(workers=1, max_queue_size=8)
        self._faces = faces
        self._rows = rows
        self._side = side
        self._size = batch_size
        self._seed = seed
        self._order = np.random.default_rng(seed)  # the same in all processes
        self._epoch = 0
        self._teacher = teacher
        self._process = process
        self.on_epoch_end()

    def __len__(self) -> int:
        """Training leaves out the last, partial batch; validation does not."""
        whole = len(self._rows) // self._size
        return whole if self._seed is not None else math.ceil(len(self._rows) / self._size)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, NDArray[np.float32]]]:
        rows = self._process.part(self._rows[index * self._size : (index + 1) * self._size])
        age = np.stack([self._faces.age_low[rows], self._faces.age_high[rows]], axis=1).astype(np.float32)
        male = self._faces.male[rows, None].astype(np.float32)
        crops = self._faces.crops[rows]
        random = np.random.default_rng((self._seed or 0, self._process.index, self._epoch, index))
        if self._teacher is not None:
            recipe, answers = self._teacher
            number = random.integers(answers.views, size=len(rows))
            seen = np.searchsorted(answers.rows, rows), number
            images = [
                spoil(resize(view(crop, int(row), int(n), answers.seed), self._side), random)
                for crop, row, n in zip(crops, rows, number, strict=True)
            ]
            age = np.concatenate([age, answers.age[seen]], axis=1, dtype=np.float32)
            male += recipe.share * (answers.male[seen][:, None] - male)
            features = answers.features[seen].astype(np.float32)
            return {"images": np.stack(images), "features": features}, {"age": age, "gender": male}
        if self._seed is not None:
            images = [spoil(alter(crop, self._side, random), random) for crop in crops]
        else:
            images = [resize(crop, self._side) for crop in crops]
        return np.stack(images), {"age": age, "gender": male}

    def on_epoch_end(self) -> None:
        """Shuffle."""
        self._epoch += 1
        if self._seed is not None:
            self._rows = self._order.permutation(self._rows)


class Trainee(keras.Model):
    """A network and the moving average of its weights, which is used outside of training.

    With a teacher, a layer that is dropped in the end learns to predict its features from the network's last ones.
    """

    def __init__(
        self, network: keras.Model, averaged: keras.Model, features: int = 0, features_weight: float = 0.0
    ) -> None:
        super().__init__()
        self.network = network
        self.averaged = averaged
        averaged.trainable = False
        self._learner = network
        self._features_weight = features_weight
        if features:
            learned = keras.layers.Dense(features, name="features")(network.get_layer("pool").output)
            self._learner = keras.Model(network.input, {**network.output, "features": learned})
        self._learn: Callable[[Any], dict[str, Any]] = partial(self._learner, training=True)
        self._answer: Callable[[Any], dict[str, Any]] = partial(averaged, training=False)
        if keras.backend.backend() == "torch":
            from training.compiled import compiled

            self._learn = compiled(self._learner, training=True)
            self._answer = compiled(averaged, training=False)

    def build(self, input_shape: Any) -> None:
        """Build nothing: both networks are built."""

    def call(self, batch: Any, training: bool = False) -> dict[str, keras.KerasTensor]:
        """Logits of (n, side, side, 3) images in 0..255, or of those in a dictionary with their `features`."""
        images = ops.cast(batch["images"] if isinstance(batch, dict) else batch, "float32")
        if not training:
            return self._answer(images)
        answer = dict(self._learn(images))
        if isinstance(batch, dict):
            error = ops.mean(ops.square(answer.pop("features") - batch["features"]))
            self.add_loss(self._features_weight * error)
        return answer


class MovingAverage(keras.callbacks.Callback):
    """Average a trainee's weights, batch norms' statistics with them (Polyak and Juditsky 1992).

    Keras' own averaging in the optimizer leaves out the statistics.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._decay = decay

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Read the average."""
        self._weights = self.model.averaged.get_weights()

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Update the average, with less inertia over the first steps."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        steps = int(self.model.optimizer.iterations)
        share = 1 - min(self._decay, steps / (steps + 10))
        for mean, new in zip(self._weights, self.model.network.get_weights(), strict=True):
            mean += share * (new - mean)

    def on_test_begin(self, *_: Any, **__: Any) -> None:
        """Write the average into the network that is validated."""
        self.model.averaged.set_weights(self._weights)


class Clock(keras.callbacks.Callback):
    """Add up the seconds of all finished epochs in the run's record, over restarts."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self._started = time.monotonic()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Stop, and write."""
        record = json.loads(self._file.read_text())
        record["seconds"] = record.get("seconds", 0) + round(time.monotonic() - self._started)
        write_json(self._file, record)


def train(
    recipe: Recipe,
    faces: Faces,
    run: Path,
    imagenet: str,
    recognizer: Path | None,
    process: Process = ALONE,
) -> keras.Model:
    """Train by `recipe` on the prepared `faces`; return the network with the weights that validated best.

    A stopped run is resumed after its last whole epoch. `imagenet` names the file of MobileNetV2's weights, or
    is "imagenet" to download them; `recognizer` is the teacher's file. Every `process` has a run folder of its own.
    Raises TrainingError.
    """
    usable = np.isin(faces.dataset, recipe.datasets)
    rows = {split: np.flatnonzero(usable & (faces.split == split)) for split in (TRAIN, VALIDATION)}
    if len(rows[TRAIN]) < recipe.batch_size or not len(rows[VALIDATION]):
        raise TrainingError("There are fewer faces than one batch, or none to validate on: prepare more.")
    teacher, teacher_share = None, 0.0
    if recipe.teacher is not None:
        if recognizer is None:
            raise TrainingError("This recipe has a teacher: add --recognizer w600k_mbf.onnx.")
        answers = ask(recognizer, faces, rows[TRAIN], recipe.teacher.views, recipe.seed, run.parent)
        teacher, teacher_share = (recipe.teacher, answers), recipe.teacher.share
    repeats = np.where(faces.dataset[rows[TRAIN]] == UTKFACE, recipe.utkface_repeats, 1)
    shown = np.repeat(rows[TRAIN], repeats)
    run.mkdir(parents=True, exist_ok=True)
    _begin_record(recipe, faces, run)
    trainee = _trainee(recipe, imagenet, teacher)
    steps = len(shown) // recipe.batch_size * recipe.epochs
    trainee.compile(
        optimizer=_optimizer(recipe, steps),
        loss={
            "age": AgeLoss(smooth_age_prior(faces, rows[TRAIN]), teacher_share),
            "gender": keras.losses.BinaryCrossentropy(from_logits=True),
        },
        metrics={
            "age": [keras.metrics.MeanMetricWrapper(age_error, name="error")],
            "gender": [keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)],
        },
        # On a CPU, XLA makes TensorFlow eight times slower; JAX always uses it.
        jit_compile=keras.backend.backend() == "jax",
    )
    trainee.optimizer.build(trainee.trainable_variables)  # needed to load the weights of a finished run
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
        keras.callbacks.BackupAndRestore(run / "backup", double_checkpoint=True, delete_checkpoint=False),
        keras.callbacks.TensorBoard(run / "tensorboard"),
        keras.callbacks.TerminateOnNaN(),
        Clock(run / RECORD_FILE),
    ]
    validation = Batches(faces, rows[VALIDATION], recipe.side, recipe.batch_size, process=process)
    done = 0
    for stage in recipe.stages:
        first, done = done, done + stage.epochs
        if len(history) >= done:
            continue
        # Other views than before it was stopped.
        seed = recipe.seed + 1000 * max(first, len(history))
        trainee.fit(
            Batches(faces, shown, stage.side, recipe.batch_size, seed, teacher, process),
            validation_data=validation,
            initial_epoch=first,
            epochs=done,
            callbacks=callbacks,
            shuffle=False,
            verbose=2,
        )
    trainee.load_weights(run / BEST_FILE)
    if share := recipe.share_of_first_weights:
        first, learned = _first(recipe, imagenet).get_weights(), trainee.averaged.get_weights()
        trainee.averaged.set_weights(
            [share * a + (1 - share) * b for a, b in zip(first, learned, strict=True)]
        )
    return trainee.averaged


def _trainee(recipe: Recipe, imagenet: str, teacher: tuple[Teacher, Answers] | None) -> Trainee:
    keras.utils.set_random_seed(recipe.seed)
    network = _first(recipe, imagenet)
    if recipe.last_frozen_layer is not None:
        freeze(network, recipe.last_frozen_layer)
    averaged = build(recipe.network, recipe.dropout)
    averaged.set_weights(network.get_weights())
    learned = (teacher[1].features.shape[-1], teacher[0].features_weight) if teacher is not None else ()
    trainee = Trainee(network, averaged, *learned)
    trainee(np.zeros((1, recipe.side, recipe.side, 3), np.uint8))
    return trainee


def _first(recipe: Recipe, imagenet: str) -> keras.Model:
    weights = imagenet if recipe.initial_weights == "imagenet" else recipe.initial_weights
    return begin(recipe.network, recipe.dropout, weights)


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


def _begin_record(recipe: Recipe, faces: Faces, run: Path) -> None:
    """Record what the run depends on. Of a resumed one only `_CHANGEABLE` may differ: else raises TrainingError."""
    file = run / RECORD_FILE
    choices, digest = recipe.choices(), faces.digest()
    record: dict[str, Any] = {
        "commit": _commit(),
        "libraries": f"Keras {keras.__version__} on {keras.backend.backend()}",
        "machine": f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores",
        "seconds": 0,
    }
    if file.is_file():
        record = json.loads(file.read_text())
        before = {key: record["recipe"].get(key) for key in choices}
        if before | _CHANGEABLE != choices | _CHANGEABLE or record["data_sha256"] != digest:
            raise TrainingError(f"{run} holds a run of another recipe or other data: name another --runs.")
    write_json(file, record | {"recipe": choices, "data_sha256": digest})


def read_record(run: Path) -> dict[str, Any]:
    """What `train` wrote about the run."""
    record: dict[str, Any] = json.loads((run / RECORD_FILE).read_text())
    return record


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
