"""Predictions in this process, without HTTP: `from agegender import Predictor`."""

from __future__ import annotations

from typing import Unpack

from agegender.answers import Prediction
from agegender.inference.detector_file import DetectorFileError
from agegender.inference.pipeline import DetectorUnavailable, Pipeline
from agegender.inference.variants import ModelsInvalid, UnknownModel, load_catalogue
from agegender.inference.yunet import YuNet
from agegender.inputs import Channels, Options, Photograph, PredictQuery, file_or_pixels
from agegender.settings import Settings
from agegender.vision.decode import ImageTooLarge, ImageUnreadable

__all__ = [
    "DetectorFileError",
    "DetectorUnavailable",
    "ImageTooLarge",
    "ImageUnreadable",
    "ModelsInvalid",
    "Predictor",
    "UnknownModel",
]


class Predictor:
    """Estimates age and gender of the faces in photographs. Threads may share a predictor.

        from agegender import Predictor

        for face in Predictor().predict("photo.jpg").faces:
            print(face.age.years, face.gender.label)

    `settings` are the settings of the service, by default from the environment. Each call uses one core, on the
    calling thread: to use all cores, call it from several threads. Raises ModelsInvalid or DetectorFileError.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._catalogue = load_catalogue(self._settings.models)
        self._pipeline = Pipeline(
            self._catalogue,
            yunet=YuNet.installed(self._settings.yunet_path),
            max_image_memory=self._settings.max_image_memory,
        )

    def predict(
        self, photograph: Photograph, *, channels: Channels | None = None, **options: Unpack[Options]
    ) -> Prediction:
        """Estimate age and gender of the faces in one photograph: a path, the bytes of a file, or an array.

        An array has shape (height, width, 3) and type uint8, and needs `channels`, the order of its colours.

        Raises ImageUnreadable, ImageTooLarge, UnknownModel, DetectorUnavailable, OSError if a file cannot be read, and
        ValueError or TypeError for an invalid option or array.
        """
        query = PredictQuery(**options)
        image = file_or_pixels(photograph, channels)
        default = self._catalogue.default(self._settings.default_model)
        model = default if query.model is None else query.model
        return self._pipeline.predict(image, **{**query.model_dump(), "model": model})
