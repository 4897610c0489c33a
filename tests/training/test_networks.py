from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

from training.errors import TrainingError
from training.networks import begin, build, freeze, with_probabilities


def crops(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 128, 128, 3), dtype=np.uint8)


def with_random_heads(network: Any) -> Any:
    """Heads begin with zeros, which would answer every face alike."""
    random = np.random.default_rng(0)
    for name in ("age_logits", "gender_logit"):
        layer = network.get_layer(name)
        layer.set_weights([random.normal(size=w.shape).astype(np.float32) for w in layer.get_weights()])
    return network


def test_b_begins_with_the_weights_of_the_file_it_is_given(tmp_path: Path) -> None:
    given = keras.applications.MobileNetV2(input_shape=(128, 128, 3), include_top=False, weights=None)
    given.save_weights(tmp_path / "backbone.weights.h5")
    network = begin("mobilenet_v2", 0.2, str(tmp_path / "backbone.weights.h5"))
    theirs = [w for w in given.get_weights() if w.ndim == 4]
    ours = [w for w in network.get_weights() if w.ndim == 4]
    assert len(theirs) == 52
    assert all(np.array_equal(a, b) for a, b in zip(theirs, ours, strict=True))
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {layer.momentum for layer in norms} == {0.9}  # at 0.999 validation jumps about


def test_a_model_that_was_made_before_can_be_gone_on_from(tmp_path: Path) -> None:
    before = with_random_heads(build("residual", 0.2))
    with_probabilities(before, side=96).save(tmp_path / "before.keras")
    after = begin("residual", 0.1, str(tmp_path / "before.keras"))
    assert all(np.array_equal(a, b) for a, b in zip(before.get_weights(), after.get_weights(), strict=True))
    with pytest.raises(TrainingError, match="holds no weights of the network mobilenet_v2"):
        begin("mobilenet_v2", 0.1, str(tmp_path / "before.keras"))


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nowhere\.keras"):
        begin("residual", 0.2, str(tmp_path / "nowhere.keras"))


def test_frozen_layers_keep_their_weights_and_the_others_learn() -> None:
    network = with_random_heads(build("residual", 0.2))
    freeze(network, "stage2_block1_relu2")
    before = network.get_weights()
    frozen = len(keras.Model(network.input, network.get_layer("stage2_block1_relu2").output).get_weights())
    network.compile(loss={"age": "mse", "gender": "mse"})
    network.fit(crops(2), {"age": np.ones((2, 101)), "gender": np.ones((2, 1))}, verbose=0)
    same = [np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True)]
    assert all(same[:frozen])
    assert not all(same[frozen:])


def test_a_layer_to_freeze_that_is_not_there_is_named() -> None:
    with pytest.raises(TrainingError, match="residual has no layer block_3_add"):
        freeze(build("residual", 0.2), "block_3_add")


def test_a_network_that_learned_on_smaller_images_is_given_them_when_served() -> None:
    network = with_random_heads(build("residual", 0.2))
    small = keras.ops.image.resize(crops(2).astype(np.float32), (96, 96), interpolation="bilinear")
    logits = network.predict(np.asarray(small), verbose=0)["gender"][:, 0]
    served = with_probabilities(network, side=96).predict(crops(2), verbose=0)["gender"]
    assert served == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-5)
