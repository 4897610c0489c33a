"""Training over two processes of this machine, on JAX."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from face_images import SMALL, write_chips, write_recipe
from helpers import ROOT, free_port

pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")
pytest.importorskip("jax", reason="JAX is not installed: `make env-jax`")

from training import data, recipe, train
from training.distributed import ALONE, Process


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_chips(folder / "chips", 150)
    data.prepare(folder / "cache", folder / "chips", (), None)
    return folder / "cache"


def test_two_processes_end_with_equal_weights_from_which_one_goes_on(cache: Path, tmp_path: Path) -> None:
    stages = "[{ side = 32, epochs = 2 }]"
    write_recipe(tmp_path / "mine.toml", recipe.FOLDER / "C_first.toml", stages=stages, **SMALL)
    port = free_port()
    options = ["--cache", str(cache), "--runs", "runs", "--models", "models"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "training", "make", "mine.toml", "--distributed", *options],
            cwd=tmp_path,
            env=os.environ
            | {
                "PYTHONPATH": str(ROOT),
                "KERAS_BACKEND": "jax",
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"localhost:{port}",
                "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
                "KERAS_DISTRIBUTION_PROCESS_ID": str(number),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in (0, 1)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    runs = [tmp_path / "runs/mine", tmp_path / "runs/mine-process1"]
    histories = [train.read_history(run) for run in runs]
    assert histories[0] == histories[1]
    assert len(histories[0]) == 2
    # Both runs are at their end: on TensorFlow, nothing is trained, and the best weights are read.
    faces = data.load(cache)
    chosen = recipe.load(str(tmp_path / "mine.toml"))
    one, other = (train.train(chosen, faces, run, "imagenet", None) for run in runs)
    assert all(map(np.array_equal, one.get_weights(), other.get_weights()))
    assert train.read_history(runs[0]) == histories[0]


def test_processes_share_the_faces_of_each_batch_evenly(cache: Path) -> None:
    faces = data.load(cache)

    def ages(process: Process) -> list[list[float]]:
        batches = train.Batches(faces, faces.indices("train"), 32, 64, seed=1, process=process)
        return [sorted(batches[0][1]["age"][:, 0])]

    (whole,) = ages(ALONE)
    halves = [*ages(Process(0, 2)), *ages(Process(1, 2))]
    assert [len(half) for half in halves] == [32, 32]
    assert sorted(halves[0] + halves[1]) == whole
