"""The training image: from files as UTKFace has them to a model that the serving image serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import Compose, composed, docker, running
from face_images import SMALL, write_chips, write_recipe
from helpers import ASTRONAUT, ROOT


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, runs/ and models/ that the container's user may write, with pictures named as UTKFace names them."""
    root = tmp_path_factory.mktemp("work")
    for name in ("data", "runs", "models"):
        (root / name).mkdir()
        (root / name).chmod(0o777)
    write_chips(root / "data/utkface", 300)
    stages = "[{ side = 96, epochs = 2 }]"
    write_recipe(root / "data/A.toml", ROOT / "training/recipes/C_first.toml", stages=stages, **SMALL)
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
        listed = service.client.get("/models/age_gender_A").json()
        assert (listed["sha256"], listed["loaded"]) == (metadata["sha256"], True)


def test_it_is_no_root_and_has_no_pip(train_image: str) -> None:
    shell = ["run", "--rm", "--entrypoint", "sh", train_image, "-c"]
    assert docker(*shell, "id -u; python3 -c 'import pip' 2>&1 | tail -n 1").splitlines() == [
        "10001",
        "ModuleNotFoundError: No module named 'pip'",
    ]
