"""The networks as PyTorch compiles them: they answer and learn as Keras' own do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from face_images import SMALL, write_chips, write_recipe
from helpers import ROOT

pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")
pytest.importorskip("torch", reason="PyTorch is not installed: `make env-torch`")
if shutil.which("g++") is None:
    pytest.skip("PyTorch compiles with g++, which is not installed", allow_module_level=True)

from training import data, recipe, train

COMPARE = """
import sys
import keras, numpy as np, torch
from training import compiled, networks

compiled.DTYPE = torch.float32
random = np.random.default_rng(0)
network = networks.build(sys.argv[1], dropout=0.0)
for layer in ("age_logits", "gender_logit"):
    kernel = network.get_layer(layer).kernel
    kernel.assign(random.normal(0, 0.1, kernel.shape))
networks.freeze(network, sys.argv[2])
images = torch.tensor(random.uniform(0, 255, (8, 64, 64, 3)), dtype=torch.float32)
weights = network.get_weights()

def learn(answer):
    network.set_weights(weights)
    network.zero_grad()
    logits = answer(images)
    (logits["age"].square().mean() + logits["gender"].square().mean()).backward()
    gradients = [variable.value.grad.numpy() for variable in network.trainable_variables]
    return [logits["age"].detach().numpy(), logits["gender"].detach().numpy(), *gradients, *network.get_weights()]

for ours, keras_own in zip(
    learn(compiled.compiled(network, training=True)), learn(lambda x: network(x, training=True)), strict=True
):
    assert np.linalg.norm(ours - keras_own) <= float(sys.argv[3]) * np.linalg.norm(keras_own) + 1e-3
answer = compiled.compiled(network, training=False)(images)
expected = network(images, training=False)
for name in answer:
    torch.testing.assert_close(answer[name], expected[name], rtol=1e-3, atol=1e-3)
"""


def run(*arguments: str, folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Images that differ by a millionth change gradients of MobileNetV2 with random weights by 4 %, on Keras alone.
@pytest.mark.parametrize(
    ("architecture", "last_frozen", "tolerance"),
    [("mobilenet_v2", "block_3_project_BN", "0.1"), ("residual", "stem_relu", "0.002")],
)
def test_answers_and_gradients_are_those_of_keras(
    architecture: str, last_frozen: str, tolerance: str, tmp_path: Path
) -> None:
    run("-c", COMPARE, architecture, last_frozen, tolerance, folder=tmp_path)


def test_a_run_on_pytorch_ends_on_tensorflow(tmp_path: Path) -> None:
    write_chips(tmp_path / "chips", 150)
    faces = data.prepare(tmp_path / "cache", tmp_path / "chips", (), None)[0]
    write_recipe(
        tmp_path / "mine.toml", recipe.FOLDER / "C_first.toml", stages="[{ side = 32, epochs = 2 }]", **SMALL
    )
    said = run("-m", "training", "make", "mine.toml", "--cache", "cache", "--runs", "runs", folder=tmp_path)
    assert "run it again without KERAS_BACKEND" in said
    history = train.read_history(tmp_path / "runs/mine")
    assert len(history) == 2
    network = train.train(
        recipe.load(str(tmp_path / "mine.toml")), faces, tmp_path / "runs/mine", "random", None
    )
    assert train.read_history(tmp_path / "runs/mine") == history
    assert network.count_params() > 0
