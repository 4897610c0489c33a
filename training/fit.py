"""One training run: staged image sizes, cosine schedule, checkpoints that survive a kill, the best kept."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from agegender.inference.ages import expectation
from agegender.vision.align import CROP_SIZE
from numpy.typing import NDArray

from training.architectures import Variant, build, load_exported, with_probabilities
from training.augment import Augment
from training.data import FAIRFACE, UTKFACE, Faces
from training.errors import TrainingError
from training.events import Events
from training.files import write_aside, write_json
from training.losses import (
    TEACHERS_SHARE,
    age_loss,
    features_weight,
    gender_loss,
    squared_error,
    taught_error,
    weighed,
)
from training.mixtures import draw_parts, mixed, pair_by_age
from training.plots import learning_curves
from training.recognizer import FOLDS, Teacher, folds, prepare_teacher
from training.seeds import reseed
from training.splits import TEST, TRAIN, VALIDATION
from training.teachers import SoftTargets, soft_targets

CONFIG_FILE = "config.json"
HISTORY_FILE = "history.json"
BEST_FILE = "best.weights.h5"
CURVES_FILE = "curves.png"
EVENTS_FOLDER = "tensorboard"
TEACHERS_FILE = "teachers.npz"

Entry = dict[str, float]
"""What the history keeps of an epoch."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Every choice of a run; saved beside its result."""

    variant: Variant
    stages: tuple[tuple[int, int], ...]
    """(image side in pixels, epochs), one after another: small images first buy more epochs for the same hours.

    The last side is that at which the network is validated and served."""
    init: str | None = None
    """First weights, random where there are none: an exported `.keras` file or the folder of a run of the same
    variant; for B's backbone "imagenet" or a file."""
    teachers: tuple[str, ...] = ()
    """Exported `.keras` files, or folders of runs, whose answers are learned beside the labels."""
    recognizer: str | None = None
    """A face recognition network, `w600k_mbf.onnx`, out of which the teacher is made; its features are learned too."""
    batch_size: int = 64
    peak_learning_rate: float = 1e-3
    warm_up: float = 1 / 15
    """Share of all steps over which the learning rate rises to its peak, before it falls along a cosine."""
    average_decay: float = 0.998
    """How much of the weights' moving average stays at each step; the average is what is kept and served."""
    weight_decay: float = 0.02
    dropout: float = 0.2
    fairface_share: float = 1.0
    """Share of FairFace's training faces that each epoch draws afresh."""
    patience: int = 20
    """Epochs without a better validation score after which training stops.

    So many, since a trained network that goes on grows worse first, and better only as the learning rate falls."""
    seed: int = 0

    @property
    def epochs(self) -> int:
        """Epochs over all stages."""
        return sum(epochs for _, epochs in self.stages)

    @property
    def side(self) -> int:
        """Side in pixels at which the trained network sees crops."""
        return self.stages[-1][0]

    def image_size(self, epoch: int) -> int:
        """Side of the training images in `epoch` (from 0)."""
        for size, epochs in self.stages:
            if epoch < epochs:
                return size
            epoch -= epochs
        raise ValueError("the epoch lies beyond the last stage")

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> Config:
        """The configuration in what `describe` recorded of a run."""
        known = {field.name: record[field.name] for field in dataclasses.fields(cls)}
        stages = tuple((side, epochs) for side, epochs in record["stages"])
        return cls(**known | {"stages": stages, "teachers": tuple(record["teachers"])})


DEFAULTS: dict[Variant, Config] = {
    # 128 pixels made A worse (EXPERIMENTS.md): what it learns from random weights is bound to one scale.
    "A": Config("A", stages=((96, 16),), weight_decay=0.05),
    "B": Config("B", stages=((96, 4), (128, 4)), init="imagenet"),
}


class Batches(keras.utils.PyDataset):
    """Shuffled batches of one epoch; the order follows from seed and epoch alone, so a resumed run repeats it."""

    def __init__(self, faces: Faces, config: Config, epoch: int, taught: SoftTargets | None = None) -> None:
        super().__init__(workers=1, max_queue_size=8)
        random = np.random.default_rng((config.seed, epoch))
        fairface = faces.indices(TRAIN, FAIRFACE)
        drawn = random.permutation(fairface)[: round(config.fairface_share * len(fairface))]
        order = random.permutation(np.concatenate([faces.indices(TRAIN, UTKFACE), drawn]))
        # A recognizer's batches hold as many faces of each fold, one fold after another, as its `Teacher` wants them.
        parts = [order]
        if config.recognizer is not None:
            parts = [order[np.isin(order, fold)] for fold in folds(faces, config.seed)]
        size = max(1, config.batch_size // len(parts))
        whole = min(map(len, parts)) // size
        if not whole:
            raise TrainingError(
                f"There are {len(order)} faces to train on, fewer than the {config.batch_size} of one batch: "
                "prepare more."
            )
        self._faces = faces
        self._taught = taught
        self._batches = np.stack([part[: whole * size].reshape(whole, size) for part in parts], axis=1)
        self._parts: NDArray[np.float32] | None = None
        if config.recognizer is not None:
            age = (faces.age_low[self._batches] + faces.age_high[self._batches]) / 2
            self._batches = np.take_along_axis(self._batches, pair_by_age(age, random), axis=-1)
            own = draw_parts(self._batches.size, random)
            self._parts = own.reshape(whole, -1, *own.shape[1:])
        self._features_weight = features_weight(epoch / config.epochs)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Crops (n, 128, 128, 3) and labels.

        With a recognizer, crops are a dictionary that has the `parts` of each in what is seen, as `mixed` takes them,
        and in the labels' place stands what the errors in what is `taught` and in `features` weigh.
        """
        rows = self._batches[index].ravel()
        faces = self._faces
        if self._parts is not None:
            one = np.ones((len(rows), 1), np.float32)
            crops = {"crops": faces.crops[rows], "parts": self._parts[index]}
            return crops, {"taught": one, "features": self._features_weight * one}
        age = np.stack([faces.age_low[rows], faces.age_high[rows]], axis=1).astype(np.float32)
        male = faces.male[rows, None].astype(np.float32)
        if self._taught is not None:
            age = np.concatenate([age, self._taught.age[rows]], axis=1, dtype=np.float32)
            male += TEACHERS_SHARE * (self._taught.male[rows, None] - male)
        return faces.crops[rows], {"age": age, "gender": male}


class Trainee(keras.Model):
    """The network behind its augmentation, and beside it the moving average of its weights.

    With a `teacher`, its last features also lead to the recognizer's, by a layer that is dropped after training.
    """

    def __init__(
        self, network: keras.Model, averaged: keras.Model, augment: Augment, teacher: Teacher | None = None
    ) -> None:
        super().__init__()
        self.augment = augment
        self.network = network
        self.whole = network
        self.teacher = teacher  # no part of what is saved: Keras does not look into it
        if teacher is not None:
            size = teacher.network.output.shape[1]
            learned = keras.layers.Dense(size, name="features")(network.get_layer("pool").output)
            self.whole = keras.Model(network.input, {**network.output, "features": learned})
        self.averaged = averaged
        averaged.trainable = False

    def build(self, input_shape: Any) -> None:
        """Nothing is left to be built: the networks were made with their weights, and augmentation has none."""

    def call(self, batch: Any, training: bool = False) -> Any:
        """Logits of augmented crops in training, of the crops as they are otherwise.

        Of a dictionary, as `Batches` has for a teacher, how far each face is from what is `taught`, and from the
        `features`, (n,).
        """
        if self.teacher is None or not isinstance(batch, dict):
            return self.whole(self.augment(batch) if training else batch, training=training)
        views = self.augment.alter(mixed(batch["crops"], batch["parts"], FOLDS))
        answers = self.teacher(views)
        said = self.whole(self.augment.spoil(views), training=training)
        features = squared_error(answers["features"], said["features"])
        return {"taught": taught_error(answers, said), "features": features}


class MovingAverage(keras.callbacks.Callback):
    """Follows a trainee's weights, the batch norms' statistics with them (Polyak and Juditsky 1992)."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._decay = decay

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Take up the average where the last epoch left it."""
        self._weights = self.model.averaged.get_weights()

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Move the average; over the first steps, whose weights say little, it follows them faster."""
        steps = int(self.model.optimizer.iterations)
        share = 1 - min(self._decay, steps / (steps + 10))
        for mean, new in zip(self._weights, self.model.network.get_weights(), strict=True):
            mean += share * (new - mean)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Hand the average over, once nothing else writes to the trainee."""
        self.model.averaged.set_weights(self._weights)


def predict_logits(
    network: keras.Model, faces: Faces, rows: NDArray[np.int64], side: int, batch: int = 256
) -> dict[str, Any]:
    """Age logits (n, 101) and gender logits (n,) of the crops of (n,) `rows`, seen at `side`, batch by batch."""
    parts = []
    for start in range(0, len(rows), batch):
        images = keras.ops.cast(faces.crops[rows[start : start + batch]], "float32")
        if side != CROP_SIZE:
            images = keras.ops.image.resize(images, (side, side), interpolation="bilinear")
        parts.append(network.predict_on_batch(images))
    age = np.concatenate([part["age"] for part in parts])
    return {"age": age, "gender": np.concatenate([part["gender"] for part in parts])[:, 0]}


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Probabilities of (n, classes) logits."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True)).astype(np.float64)
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def validate(network: keras.Model, faces: Faces, side: int) -> Entry:
    """Age MAE and gender accuracy on each data set's validation split; `score` is what the best epoch minimises.

    `side` is that at which the network will be served, so that epochs of other image sizes can be compared.
    """
    result: Entry = {}
    for dataset in (UTKFACE, FAIRFACE):
        rows = faces.indices(VALIDATION, dataset)
        if not len(rows):
            continue
        logits = predict_logits(network, faces, rows, side)
        age = expectation(softmax(logits["age"]))
        # A bin is missed by as many years as the estimate lies outside it.
        misses = np.maximum(faces.age_low[rows] - age, age - faces.age_high[rows]).clip(min=0)
        result[f"{dataset}_age_mae"] = float(misses.mean())
        result[f"{dataset}_gender_accuracy"] = float(((logits["gender"] > 0) == faces.male[rows]).mean())
    # A product: a hundredth less of either error counts alike.
    errors = 1 - result[f"{UTKFACE}_gender_accuracy"] + 1e-3
    result["score"] = result[f"{UTKFACE}_age_mae"] * errors
    return result


def train(
    config: Config,
    faces: Faces,
    run: Path,
    *,
    resume: bool,
    tensorboard: bool = False,
    log: Callable[[str], None],
) -> None:
    """Train in the folder `run`, where the weights of the best epoch are kept.

    With `resume` a run goes on from its last whole epoch, with the optimiser's state; otherwise it begins anew.
    With `tensorboard` its history is kept for that too. Raises TrainingError.
    """
    for taken in (config.init, *config.teachers):
        if taken is not None and Path(taken).resolve() == run.resolve():
            raise TrainingError(f"{run} would be emptied before it is learned from: name another --runs.")
    run.mkdir(parents=True, exist_ok=True)
    for split in (VALIDATION, TEST):
        if not len(faces.indices(split, UTKFACE)):
            raise TrainingError(f"No face of UTKFace is in the {split} split: prepare more.")
    steps = len(Batches(faces, config, 0)) * config.epochs
    history: list[Entry] = []
    if resume and has_run(run):
        record, history = load_record(run)
        if Config.of_record(record) != config or record["data_sha256"] != faces.digest():
            raise TrainingError(
                f"{run} was begun with other options or on other data: --resume needs the same."
            )
    teachers: Iterable[keras.Model] = map(_served, config.teachers)
    if not history:
        teachers = list(teachers)  # one that cannot be read is said to be so before anything is thrown away
    teacher = None
    if config.recognizer is not None:
        teacher = prepare_teacher(config.recognizer, faces, run.parent, config.seed)
    keras.utils.set_random_seed(config.seed)
    network = begin(config)
    averaged = build(config.variant, config.dropout)
    averaged.set_weights(network.get_weights())
    augment = Augment(seed=config.seed)
    trainee = Trainee(network, averaged, augment, teacher)
    warm_up = math.ceil(config.warm_up * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        config.peak_learning_rate / 100,
        decay_steps=steps - warm_up,
        warmup_target=config.peak_learning_rate,
        warmup_steps=warm_up,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay, clipnorm=5.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    trainee(np.zeros((1, *faces.crops.shape[1:]), np.uint8))
    optimizer.build(trainee.trainable_variables)

    if history:
        trainee.compile(optimizer=optimizer)
        _load_weights(trainee, _after_epoch(run, len(history)))
        if best_epoch(history) == len(history):  # a kill may have come before they were kept
            write_aside(run / BEST_FILE, averaged.save_weights)
        log(f"going on after epoch {len(history)}")
    else:
        for stale in (run / HISTORY_FILE, run / BEST_FILE, run / TEACHERS_FILE, *run.glob("after_epoch_*")):
            stale.unlink(missing_ok=True)
        shutil.rmtree(run / EVENTS_FOLDER, ignore_errors=True)
        write_json(run / CONFIG_FILE, describe(config, faces))
    # Last, so that what the folder keeps of teachers is never from others than its configuration names.
    taught = soft_targets(teachers, faces, run / TEACHERS_FILE) if config.teachers else None

    losses: dict[str, Any] = {"age": age_loss, "gender": gender_loss}
    if teacher is not None:
        losses = {"taught": weighed, "features": weighed}
    events = Events(run / EVENTS_FOLDER, history) if tensorboard else None
    compiled_for = None
    for epoch in range(len(history), config.epochs):
        if history and len(history) - best_epoch(history) >= config.patience:
            log(f"no better score in {config.patience} epochs: stopping")
            break
        started = time.monotonic()
        reseed(trainee.variables, config.seed, epoch)
        if config.image_size(epoch) != compiled_for:  # traces anew: 20 s and 180 MB each time
            compiled_for = augment.size = config.image_size(epoch)
            trainee.compile(
                optimizer=optimizer,
                loss=losses,
                # XLA makes TensorFlow on a CPU eight times slower; JAX is made for it.
                jit_compile=keras.backend.backend() == "jax",
            )
        fitted = trainee.fit(
            Batches(faces, config, epoch, taught),
            epochs=1,
            verbose="auto",
            shuffle=False,
            callbacks=[keras.callbacks.TerminateOnNaN(), MovingAverage(config.average_decay)],
        )
        if trainee.stop_training:
            raise TrainingError(
                f"The loss grew beyond all numbers in epoch {epoch + 1}: begin anew with a lower --peak-learning-rate."
            )
        entry = {"epoch": epoch + 1, "size": augment.size, "loss": float(fitted.history["loss"][0])}
        entry |= validate(averaged, faces, config.side) | {"seconds": time.monotonic() - started}
        history.append(entry)
        # The history says which weights belong to it, so a kill between two files costs at most an epoch.
        write_aside(_after_epoch(run, len(history)), trainee.save_weights)
        write_json(run / HISTORY_FILE, history)
        _after_epoch(run, len(history) - 1).unlink(missing_ok=True)
        if best_epoch(history) == len(history):
            write_aside(run / BEST_FILE, averaged.save_weights)
        write_aside(run / CURVES_FILE, lambda path: learning_curves(history, path))
        if events is not None:
            events.write(entry)
        log("  ".join(f"{key} {value:.4g}" for key, value in entry.items()))


def best_epoch(history: list[Entry]) -> int:
    """The epoch (from 1) with the lowest score, whose weights are kept; the first of equals."""
    return 1 + min(range(len(history)), key=lambda i: history[i]["score"])


def load_record(run: Path) -> tuple[dict[str, Any], list[Entry]]:
    """What a run recorded of itself, and its history; raises TrainingError where there is no whole one."""
    if not has_run(run):
        raise TrainingError(f"{run} holds no run: run `python -m training train` first.")
    history = run / HISTORY_FILE
    try:
        record = json.loads((run / CONFIG_FILE).read_text())
        Config.of_record(record)
        return record, json.loads(history.read_text()) if history.is_file() else []
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{run} is damaged, or of another version: begin it anew, without --resume."
        ) from error


def has_run(run: Path) -> bool:
    """Whether a run was begun there."""
    return (run / CONFIG_FILE).is_file()


def load_best(run: Path) -> keras.Model:
    """The network of a run, with the weights of its best epoch. Raises TrainingError where there is none."""
    config = Config.of_record(load_record(run)[0])
    if not (run / BEST_FILE).is_file():
        raise TrainingError(f"{run} holds no finished epoch: run `python -m training train` with --resume.")
    network = build(config.variant, config.dropout)
    _load_weights(network, run / BEST_FILE)
    return network


def _load_weights(model: keras.Model, file: Path) -> None:
    """Raises TrainingError where they are not there, or not whole."""
    try:
        model.load_weights(file)
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(f"{file} is missing or damaged: begin the run anew, without --resume.") from error


def begin(config: Config) -> keras.Model:
    """The network of `config` with its first weights. Raises TrainingError."""
    init = config.init
    if init is not None and (init.endswith(".keras") or Path(init).is_dir()):
        network = build(config.variant, config.dropout)
        earlier = _served(init)
        if earlier.name != network.name:
            raise TrainingError(f"{init} holds a network of another variant than {config.variant}.")
        network.set_weights(earlier.get_layer(network.name).get_weights())
        return network
    if init is None or (config.variant == "B" and init == "imagenet"):
        return build(config.variant, config.dropout, init)
    if config.variant == "A" or not Path(init).is_file():
        raise TrainingError(
            f"{init} is neither a run's folder nor a .keras file, nor weights of B's backbone."
        )
    try:
        return build(config.variant, config.dropout, init)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{init} holds no weights of MobileNetV2 without its top.") from error


def _served(path: str) -> keras.Model:
    """What a run's folder or an exported file holds, as `with_probabilities` makes it. Raises TrainingError."""
    if not Path(path).is_dir():
        return load_exported(path)
    side = Config.of_record(load_record(Path(path))[0]).side
    return with_probabilities(load_best(Path(path)), side=side)


def describe(config: Config, faces: Faces) -> dict[str, Any]:
    """What a run records of itself: configuration, code, data and libraries."""
    return {
        **dataclasses.asdict(config),
        "commit": _commit(),
        "data_sha256": faces.digest(),
        "faces": len(faces),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
    }


def _commit() -> str | None:
    """The commit of this code; None where it lies in no repository, as in an image."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None


def _after_epoch(run: Path, epochs: int) -> Path:
    """Weights and optimiser state after so many whole epochs."""
    return run / f"after_epoch_{epochs}.weights.h5"
