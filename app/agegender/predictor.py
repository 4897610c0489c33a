"""The models without HTTP: `from agegender import Predictor`."""

from __future__ import annotations

import threading
from typing import Unpack

from agegender.answers import Prediction
from agegender.inference.detector_file import DetectorFileError
from agegender.inference.pipeline import DetectorUnavailable, Pipeline
from agegender.inference.variants import ModelsInvalid, ModelUnavailable, UnknownModel, load_catalogue
from agegender.inference.yunet import YuNet
from agegender.inputs import Channels, Options, Photograph, PredictQuery, file_or_pixels
from agegender.settings import Settings
from agegender.vision.decode import ImageTooLarge, ImageUnreadable

__all__ = [
    "DetectorFileError",
    "DetectorUnavailable",
    "ImageTooLarge",
    "ImageUnreadable",
    "ModelUnavailable",
    "ModelsInvalid",
    "Predictor",
    "UnknownModel",
]


class Predictor:
    """Estimates age and gender of the faces in photographs, in this process. Threads may share it.

        from agegender import Predictor

        for face in Predictor().predict("photo.jpg").faces:
            print(face.age.years, face.gender.label)

    Models and limits are those of `settings`, which by default come from the environment, as for the service. Each call
    runs on the thread that makes it, and OpenCV on no others: to use all cores, call it from as many threads. Raises
    ModelsInvalid or DetectorFileError, each a sentence that says what to do.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._catalogue = load_catalogue(self._settings.models)
        self._yunet = YuNet.installed(self._settings.yunet_path, self._settings.detect_max_side)
        self._of_thread = threading.local()

    def predict(
        self, photograph: Photograph, *, channels: Channels | None = None, **options: Unpack[Options]
    ) -> Prediction:
        """Age and gender of the faces in one photograph: a path, the bytes of a file, or an array.

        `channels` says in which order an array has its colours, and is needed for one. The answer is that of the
        service. Raises ImageUnreadable, ImageTooLarge, UnknownModel, ModelUnavailable, DetectorUnavailable, OSError
        where a file cannot be read, and ValueError or TypeError for what makes no sense.
        """
        query = PredictQuery(**options)
        image = file_or_pixels(photograph, channels)
        given = {
            **query.model_dump(),
            "model": self._settings.default_model if query.model is None else query.model,
        }
        return self._own().predict(image, **given)

    def _own(self) -> Pipeline:
        """That of the calling thread: not all detectors may be shared."""
        if not hasattr(self._of_thread, "pipeline"):
            self._of_thread.pipeline = Pipeline(
                self._catalogue,
                yunet=self._yunet,
                max_pixels=self._settings.max_pixels,
                detect_max_side=self._settings.detect_max_side,
            )
        own: Pipeline = self._of_thread.pipeline
        return own
