"""Where a run begins: where another one ended, whether that one was exported or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

from training import data, fit
from training.architectures import Variant, build, with_probabilities
from training.errors import TrainingError
from training.fit import Config

STAGES = ((32, 1),)


def same_weights(one: keras.Model, other: keras.Model) -> bool:
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("variant", ["A", "B"])
def test_a_run_begins_with_an_exported_file(tmp_path: Path, variant: Variant) -> None:
    earlier = build(variant)
    with_probabilities(earlier).save(tmp_path / "earlier.keras")
    network = fit.begin(Config(variant, STAGES, init=str(tmp_path / "earlier.keras")))
    assert same_weights(network, earlier)


def test_a_run_begins_with_the_best_weights_of_another(faces: data.Faces, tmp_path: Path) -> None:
    fit.train(Config("A", STAGES, batch_size=8), faces, tmp_path, resume=False, log=print)
    network = fit.begin(Config("A", STAGES, init=str(tmp_path)))
    assert same_weights(network, fit.load_best(tmp_path))


def test_a_network_of_another_variant_is_refused(tmp_path: Path) -> None:
    with_probabilities(build("A")).save(tmp_path / "a.keras")
    with pytest.raises(TrainingError, match="a network of another variant than B"):
        fit.begin(Config("B", STAGES, init=str(tmp_path / "a.keras")))


@pytest.mark.parametrize(
    ("variant", "init", "said"),
    [
        ("A", "runs/Typo", "neither a run's folder nor a .keras file"),
        ("B", "runs/Typo", "neither a run's folder nor a .keras file"),
        ("B", __file__, "holds no weights of MobileNetV2"),
    ],
)
def test_what_are_no_first_weights_is_said_to_be_none(variant: Variant, init: str, said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        fit.begin(Config(variant, STAGES, init=init))


def test_a_run_does_not_empty_the_folder_that_it_would_learn_from(faces: data.Faces, tmp_path: Path) -> None:
    fit.train(Config("A", STAGES, batch_size=8), faces, tmp_path / "A", resume=False, log=print)
    again = Config("A", STAGES, init=str(tmp_path / "B/../A"), batch_size=8)
    with pytest.raises(TrainingError, match="name another --runs"):
        fit.train(again, faces, tmp_path / "A", resume=False, log=print)
    assert fit.load_best(tmp_path / "A")
