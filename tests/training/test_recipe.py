from __future__ import annotations

from pathlib import Path

import pytest

from training import recipe
from training.errors import TrainingError


@pytest.mark.parametrize("name", ["A", "B", "C"])
def test_the_recipes_in_the_repository_can_be_read(name: str) -> None:
    chosen = recipe.load(name)
    assert chosen.words.title.startswith(f"{name}: ")
    assert chosen.side in (96, 128)
    assert chosen.epochs == sum(stage.epochs for stage in chosen.stages)


def test_c_has_no_input_that_forbids_commercial_use() -> None:
    chosen = recipe.load("C")
    assert chosen.datasets == ("fairface",)
    assert chosen.teacher is None
    assert {part.licence for part in chosen.inputs} == {
        "Apache 2.0",
        "CC BY 4.0",
        "MIT",
        "ten numbers, no image",
    }


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("seed = 0", "seed = -1"), "seed"),
        (("seed = 0", "seed = 0\nsurprise = 1"), "surprise"),
        (('network = "mobilenet_v2"', 'network = "vgg"'), "network"),
        (("dropout = 0.2", "dropout = 1.0"), "dropout"),
        (("seed = 0", "seed ="), "Invalid value"),
    ],
)
def test_what_is_not_a_recipe_is_named(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text((recipe.FOLDER / "C.toml").read_text().replace(*change))
    with pytest.raises(TrainingError, match=rf"(?s)mine\.toml is not a recipe: .*{complaint}"):
        recipe.load(str(file))


def test_a_recipe_that_is_not_there_is_named() -> None:
    with pytest.raises(TrainingError, match=r"There is no recipe .*Z\.toml"):
        recipe.load("Z")
