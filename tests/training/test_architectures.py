from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

from training.architectures import build, with_probabilities


def test_a_has_at_most_6_million_parameters_and_gives_probabilities() -> None:
    network = build("A")
    assert network.count_params() <= 6_000_000
    crops = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    answer = with_probabilities(network).predict(crops, verbose=0)
    assert answer["age"].shape == (3, 101)
    assert answer["age"].sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert answer["gender"].shape == (3,)
    logits = network.predict(crops.astype(np.float32), verbose=0)["gender"][:, 0]
    assert answer["gender"] == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-5)
    # A temperature of two halves the logit.
    cooler = with_probabilities(network, gender_temperature=2.0).predict(crops, verbose=0)["gender"]
    assert cooler == pytest.approx(1 / (1 + np.exp(-logits / 2)), abs=1e-5)


def test_b_begins_with_the_weights_of_the_file_it_is_given(tmp_path: Path) -> None:
    given = keras.applications.MobileNetV2(input_shape=(128, 128, 3), include_top=False, weights=None)
    given.save_weights(tmp_path / "backbone.weights.h5")
    network = build("B", backbone=str(tmp_path / "backbone.weights.h5"))
    theirs = [w for w in given.get_weights() if w.ndim == 4]
    ours = [w for w in network.get_weights() if w.ndim == 4]
    assert len(theirs) == 52
    assert all(np.array_equal(a, b) for a, b in zip(theirs, ours, strict=True))
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {layer.momentum for layer in norms} == {0.9}  # at 0.999 validation jumps about


def test_a_network_that_learned_on_smaller_images_is_given_them_when_served() -> None:
    network = build("A")
    crops = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    small = keras.ops.image.resize(crops.astype(np.float32), (96, 96), interpolation="bilinear")
    logits = network.predict(np.asarray(small), verbose=0)["gender"][:, 0]
    served = with_probabilities(network, side=96).predict(crops, verbose=0)["gender"]
    assert served == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-5)
