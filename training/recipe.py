"""The recipe of a model: one TOML file in `training/recipes`, every choice with its reason."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.errors import TrainingError

FOLDER = Path(__file__).parent / "recipes"

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(_Part):
    """Some epochs on images of one size."""

    side: Positive
    """Pixels."""
    epochs: Positive


class Teacher(_Part):
    """How much is learned from a face recognition network, InsightFace's `w600k_mbf.onnx`."""

    share: Share
    """Of its answers, in the loss of age and gender; the rest is the labels'."""
    features_weight: float = Field(ge=0)
    """Of the error in its features, beside that loss."""
    views: Positive
    """Altered copies of each face that it is asked about."""


class Input(_Part):
    """Something that the model is made of, for the ledger in its card."""

    name: str
    source: str
    licence: str
    use: str


class Words(_Part):
    """What the metadata and the card say of the model."""

    title: str
    architecture: str
    description: str
    use: str
    """Which users should take this model, in a sentence."""
    licence: str
    origin: str = ""
    """How the weights came about, for the card, beside the choices of this run."""


class Recipe(_Part):
    """Every choice of a training run."""

    words: Words
    inputs: tuple[Input, ...]

    network: Literal["residual", "mobilenet_v2"]
    initial_weights: str
    """"random", "imagenet" or a `.keras` file of this network that `make` wrote."""
    last_frozen_layer: str | None = None
    """The layers up to this one keep their first weights."""
    datasets: tuple[Literal["utkface", "fairface"], ...]
    """The data sets that train the network, choose the epoch and calibrate the result."""
    utkface_repeats: Positive = 1
    """How often an epoch shows each face of UTKFace; it shows those of FairFace once."""
    stages: tuple[Stage, ...]
    """One after another; the side of the last one is that at which the network is validated and served."""
    batch_size: Positive
    peak_learning_rate: float = Field(gt=0)
    warm_up: Share
    """Share of all steps over which the learning rate rises to its peak, before it falls along a cosine."""
    weight_decay: float = Field(ge=0)
    dropout: Share
    average_decay: Share
    """How much of the weights' moving average stays at each step."""
    share_of_first_weights: Share = 0.0
    """In the end, of the weights that the run began with; the rest is what it learned (Wortsman et al. 2022)."""
    teacher: Teacher | None = None
    seed: int = Field(ge=0)

    @property
    def epochs(self) -> int:
        """Epochs over all stages."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def side(self) -> int:
        """Side in pixels at which the trained network sees crops."""
        return self.stages[-1].side

    def choices(self) -> dict[str, Any]:
        """What decides the weights, in plain values."""
        return self.model_dump(mode="json", exclude={"words", "inputs"})


def load(name: str) -> Recipe:
    """Read a recipe by its name in `training/recipes`, or by the path of its file.

    Raises TrainingError if it is missing or not a recipe.
    """
    file = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        return Recipe.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise TrainingError(f"There is no recipe {file}.") from error
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise TrainingError(f"{file} is not a recipe: {error}") from error
