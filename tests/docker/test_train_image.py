"""The training image: from files as UTKFace has them to a model that the serving image serves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from engine import Compose, composed, docker, running
from helpers import ASTRONAUT, ROOT

FACES = 300


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, runs/ and models/ that the container's user may write, with pictures named as UTKFace names them."""
    root = tmp_path_factory.mktemp("work")
    for name in ("data", "runs", "models"):
        (root / name).mkdir()
        (root / name).chmod(0o777)
    chips = root / "data/utkface"
    chips.mkdir()
    random = np.random.default_rng(0)
    for i in range(FACES):
        # Unlike one another, so that none counts as a near-duplicate of another; brighter with age.
        age, gender, race = int(random.integers(1, 90)), i % 2, i % 5
        blocks = random.integers(0, 80, (10, 10, 3)) + 2 * age
        chip = cv2.resize(blocks.clip(0, 255).astype(np.uint8), (200, 200), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(chips / f"{age}_{gender}_{race}_20170109{i:09d}.jpg.chip.jpg"), chip)
    changes = {
        'datasets = ["fairface"]': 'datasets = ["utkface"]',
        'network = "mobilenet_v2"': 'network = "residual"',
        'initial_weights = "imagenet"': 'initial_weights = "random"',
        "batch_size = 128": "batch_size = 64",
    }
    recipe = (ROOT / "training/recipes/C_first.toml").read_text()
    for before, after in changes.items():
        assert before in recipe
        recipe = recipe.replace(before, after)
    recipe = re.sub("^stages = .*$", "stages = [{ side = 96, epochs = 2 }]", recipe, flags=re.MULTILINE)
    (root / "data/A.toml").write_text(recipe)
    return root


@pytest.fixture(scope="module")
def training(train_image: str, folders: Path) -> Iterator[Compose]:
    variables = {
        f"AGEGENDER_{name.upper()}_FOLDER": str(folders / name) for name in ("data", "runs", "models")
    }
    with composed(AGEGENDER_TRAIN_IMAGE=train_image, **variables) as compose:
        yield compose


def test_what_it_trains_is_served(training: Compose, serve_image: str, folders: Path) -> None:
    training(
        *("--profile", "train", "run", "--rm", "-T", "train"),
        "python3 -m training make data/A.toml --utkface data/utkface && python3 -m training evaluate age_gender_A",
    )
    assert len((folders / "runs/A/history.csv").read_text().splitlines()) == 1 + 2
    made = {path.name for path in (folders / "models").iterdir()}
    assert {"age_gender_A.onnx", "age_gender_A.json", "age_gender_A.keras"} <= made

    mounted = (
        "--volume",
        f"{folders / 'models'}:/models:ro",
        "--env",
        "AGEGENDER_DEFAULT_MODEL=age_gender_A",
    )
    with running(serve_image, *mounted) as service:
        (face,) = service.predict(ASTRONAUT.read_bytes()).json()["faces"]
        assert 0 <= face["age"]["low"] <= face["age"]["years"] <= face["age"]["high"] <= 100
        metadata = json.loads((folders / "models/age_gender_A.json").read_text())
        listed = service.get("/models/age_gender_A").json()
        assert (listed["sha256"], listed["loaded"]) == (metadata["sha256"], True)


def test_it_is_no_root_and_has_no_pip(train_image: str) -> None:
    shell = ["run", "--rm", "--entrypoint", "sh", train_image, "-c"]
    assert docker(*shell, "id -u; python3 -c 'import pip' 2>&1 | tail -n 1").splitlines() == [
        "10001",
        "ModuleNotFoundError: No module named 'pip'",
    ]
