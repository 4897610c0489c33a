"""The recipe of a model: one TOML file in `training/recipes`, every choice with its reason."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.errors import TrainingError

FOLDER = Path(__file__).parent / "recipes"

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]


class Stage(BaseModel):
    """Some epochs on images of one size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    side: Positive
    """Pixels."""
    epochs: Positive


class Recipe(BaseModel):
    """Every choice of a training run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    network: Literal["residual", "mobilenet_v2"]
    initial_weights: Literal["random", "imagenet"]
    datasets: tuple[Literal["utkface", "fairface"], ...]
    """The data sets that train the network, choose the epoch and calibrate the result."""
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
    seed: int = Field(ge=0)

    @property
    def epochs(self) -> int:
        """Epochs over all stages."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def side(self) -> int:
        """Side in pixels at which the trained network sees crops."""
        return self.stages[-1].side


def load(name: str, folder: Path = FOLDER) -> Recipe:
    """Read `name`.toml in `folder`. Raises TrainingError if it is missing or not a recipe."""
    file = folder / f"{name}.toml"
    try:
        return Recipe.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise TrainingError(f"There is no recipe {file}.") from error
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise TrainingError(f"{file} is not a recipe: {error}") from error
