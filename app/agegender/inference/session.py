"""Networks run by ONNX Runtime, above all a model: crops in, age distributions and probabilities of male out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from agegender.inference.ages import AGES
from agegender.vision.align import CROP_SIZE

Crops = NDArray[np.uint8]
Estimates = tuple[NDArray[np.float32], NDArray[np.float32]]

# Crops that ONNX Runtime is given at a time. Its memory arena grows to the largest batch ever seen: two
# threads, both models and 100 crops took 842 MB whole and 139 MB in fours, which were no slower (3.0 against
# 3.2 ms a crop); a service took 271 MB after 1,000 requests with fours and 249 MB with twos. Doing without the
# arena instead made large batches take 1.4 times as long.
_SLICE = 2


# By default each network has an arena of its own, which doubles as it grows: a service of two workers took 194 MB when
# ready and 254 after 1,000 requests, with one arena 184 and 234, and was no faster.
onnxruntime.create_and_register_allocator(
    onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    ),
    onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1}),  # grow by what is needed, not by doubling
)


def load(network: Path | bytes) -> onnxruntime.InferenceSession:
    """Load a network from a file or its bytes; threads may share it. Raises ONNX Runtime's exceptions."""
    options = onnxruntime.SessionOptions()
    # One thread is the calling one. There is a worker for each core, and threads of the runtime would compete
    # with them.
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.use_env_allocators", "1")
    # It warns of initializers in YuNet's file that the joined heads do not use.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


class SessionInvalid(Exception):
    """The file is not such a model; str(e) completes a sentence that begins with the file's name."""


class OnnxSession:
    """A model file run by ONNX Runtime on the calling thread; threads may share it.

    Raises SessionInvalid if the file is not an ONNX model, or does not turn crops into probabilities.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._session = load(path)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise SessionInvalid("is not a model that ONNX Runtime can run") from error
        self._check()

    def run(self, crops: Crops) -> Estimates:
        """Crops (n, 128, 128, 3) RGB uint8 to probabilities of ages (n, 101) and of male (n,), float32."""
        parts = [
            self._session.run(["age", "gender"], {"image": crops[first : first + _SLICE]})
            for first in range(0, len(crops), _SLICE)
        ]
        age, gender = map(np.concatenate, zip(*parts, strict=True))
        return age, gender

    def _check(self) -> None:
        """Run two crops: declared shapes do not tell logits from probabilities, a batch fixed at one, or NaN."""
        ramp = np.linspace(0, 255, CROP_SIZE * CROP_SIZE * 3).astype(np.uint8)
        crops = np.stack([ramp, ramp[::-1]]).reshape(2, CROP_SIZE, CROP_SIZE, 3)
        try:
            age, gender = self.run(crops)
        except Exception as error:  # as above
            raise SessionInvalid("does not turn two crops into `age` and `gender`") from error
        if age.shape != (2, AGES) or gender.shape != (2,):
            raise SessionInvalid(
                f"gives shapes {age.shape} and {gender.shape} for two crops, not (2, {AGES}) and (2,)"
            )
        both = np.append(age, gender)
        if not (np.allclose(age.sum(axis=1), 1, atol=1e-3) and np.all((both >= 0) & (both <= 1.001))):
            raise SessionInvalid("gives ages or genders that are not probabilities")
