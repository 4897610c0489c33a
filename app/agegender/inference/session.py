"""One model in memory: crops in, age distributions and probabilities of male out.

`OnnxSession` runs what is served; `KerasSession` runs a freshly trained model that nobody has exported yet.
Both may be shared by threads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agegender.inference import runtime
from agegender.inference.ages import AGES
from agegender.vision.align import CROP_SIZE

Crops = NDArray[np.uint8]
Estimates = tuple[NDArray[np.float32], NDArray[np.float32]]

# Crops that ONNX Runtime is given at a time. Its memory arena grows to the largest batch ever seen: two
# threads, both models and 100 crops took 842 MB whole and 139 MB in fours, which were no slower (3.0 against
# 3.2 ms a crop); a service took 271 MB after 1,000 requests with fours and 249 MB with twos. Doing without the
# arena instead made large batches take 1.4 times as long.
_SLICE = 2


class SessionInvalid(Exception):
    """A file that is no such model; str(e) completes a sentence that begins with the file's name."""


class KerasMissing(Exception):
    """A `.keras` file, and no TensorFlow to run it."""


class Session(Protocol):
    """A model that is ready to run."""

    def run(self, crops: Crops) -> Estimates:
        """Crops (n, 128, 128, 3) RGB to probabilities of ages (n, 101) and of male (n,), float32."""
        ...


class OnnxSession:
    """A model file run by ONNX Runtime on the calling thread.

    Raises SessionInvalid where the file is no ONNX model, or one with other inputs and outputs.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._session = runtime.load(path)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise SessionInvalid("is not a model that ONNX Runtime can run") from error
        self._check_interface()
        _check_estimates(self)

    def run(self, crops: Crops) -> Estimates:
        """See `Session.run`."""
        parts = [self._run(crops[first : first + _SLICE]) for first in range(0, len(crops), _SLICE)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([age for age, _ in parts]), np.concatenate([gender for _, gender in parts])

    def _run(self, crops: Crops) -> Estimates:
        age, gender = self._session.run(["age", "gender"], {"image": crops})
        return age, gender

    def _check_interface(self) -> None:
        inputs = [(tensor.name, tensor.type, tensor.shape[1:]) for tensor in self._session.get_inputs()]
        wanted = [("image", "tensor(uint8)", [CROP_SIZE, CROP_SIZE, 3])]
        if inputs != wanted:
            raise SessionInvalid(f"takes {inputs}, not {wanted} (name, type, shape of one crop)")
        outputs = {tensor.name: tensor.type for tensor in self._session.get_outputs()}
        if outputs != {"age": "tensor(float)", "gender": "tensor(float)"}:
            raise SessionInvalid(f"gives {outputs}, not the float tensors `age` and `gender`")


class KerasSession:
    """A `.keras` file run as a compiled `tf.function`: slower, and only where TensorFlow is.

    Raises KerasMissing where it is not, and SessionInvalid as OnnxSession does.
    """

    def __init__(self, path: Path) -> None:
        try:
            import keras
            import tensorflow as tf
        except ImportError as error:
            raise KerasMissing("TensorFlow, which runs a .keras file, is not installed") from error
        if keras.backend.backend() != "tensorflow":
            raise KerasMissing("Keras runs on another backend than TensorFlow here")
        try:
            model = keras.saving.load_model(path, compile=False)
        except Exception as error:  # whatever is wrong with a file, Keras has an exception of its own for it
            raise SessionInvalid("is not a model that Keras can load") from error
        signature = [tf.TensorSpec((None, CROP_SIZE, CROP_SIZE, 3), tf.uint8)]

        def apply(crops: Any) -> tuple[Any, Any]:
            outputs = model(tf.cast(crops, model.inputs[0].dtype), training=False)
            age, gender = (outputs["age"], outputs["gender"]) if isinstance(outputs, dict) else outputs
            return tf.cast(age, tf.float32), tf.reshape(tf.cast(gender, tf.float32), [-1])

        self._apply = tf.function(apply, input_signature=signature)
        _check_estimates(self)

    def run(self, crops: Crops) -> Estimates:
        """See `Session.run`."""
        age, gender = self._apply(crops)
        return age.numpy(), gender.numpy()


def _check_estimates(session: Session) -> None:
    """Run two crops, and raise SessionInvalid unless probabilities of the right shapes come back.

    Finds what declared shapes do not say: logits where probabilities belong, a batch frozen at one, NaN.
    """
    ramp = np.linspace(0, 255, CROP_SIZE * CROP_SIZE * 3).astype(np.uint8)
    crops = np.stack([ramp, ramp[::-1]]).reshape(2, CROP_SIZE, CROP_SIZE, 3)
    try:
        age, gender = session.run(crops)
    except Exception as error:  # of the runtime's or, where Keras traces the model only now, any kind
        raise SessionInvalid("does not turn two crops into `age` and `gender`") from error
    if age.shape != (2, AGES) or gender.shape != (2,):
        raise SessionInvalid(
            f"gives shapes {age.shape} and {gender.shape} for two crops, not (2, {AGES}) and (2,)"
        )
    if not (np.all(age >= 0) and np.allclose(age.sum(axis=1), 1, atol=1e-3)):
        raise SessionInvalid("gives ages that are no probabilities")
    if not np.all((gender >= 0) & (gender <= 1)):
        raise SessionInvalid("gives genders that are no probabilities")
